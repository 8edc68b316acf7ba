import pytest
import torch
from torch import Tensor

from understudy.students.text import PAD, UNKNOWN, TextEncoder, Tokenizer

VOCABULARY = ("a", "red", "ball", "falls", "it's", "42")


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, 8)


def make_encoder(length: int = 8) -> TextEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TextEncoder(len(VOCABULARY), length, 16, 2, 3).eval()


@torch.no_grad()
def encode(encoder: TextEncoder, *prompts: str, length: int = 8) -> Tensor:
    return encoder(Tokenizer(VOCABULARY, length)(prompts))


class TestTokenizer:
    def test_known_words_have_their_own_index(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer([" ".join(VOCABULARY)])
        assert ids.dtype == torch.int64
        assert ids.tolist() == [[2, 3, 4, 5, 6, 7, PAD, PAD]]

    @pytest.mark.parametrize("text", ["A  Red,\tBALL falls!", "a-red ball\nfalls", "“a” (red) ball… falls."])
    def test_case_spacing_and_punctuation_do_not_matter(self, tokenizer: Tokenizer, text: str) -> None:
        assert torch.equal(tokenizer([text]), tokenizer(["a red ball falls"]))

    @pytest.mark.parametrize("word", ["zebra", "balls", "0", "redball"])
    def test_unknown_words_are_no_error(self, tokenizer: Tokenizer, word: str) -> None:
        assert tokenizer([f"a {word} falls"])[0, :4].tolist() == [2, UNKNOWN, 5, PAD]

    @pytest.mark.parametrize("text", ["", "   ", "!?", "\U0001f3be", "赤いボール"])
    def test_prompt_without_words_is_all_padding(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer([text]).tolist() == [[PAD] * 8]

    def test_long_prompt_is_cut(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer(["red " * 20, "a"])
        assert ids.shape == (2, 8)
        assert ids[0].tolist() == [3] * 8

    def test_no_prompts_and_no_vocabulary(self, tokenizer: Tokenizer) -> None:
        assert tokenizer([]).shape == (0, 8)
        assert Tokenizer((), 4)(["a ball"]).tolist() == [[UNKNOWN, UNKNOWN, PAD, PAD]]


class TestEncoder:
    def test_gives_summary_tokens(self) -> None:
        out = encode(make_encoder(), "a red ball", "", "falls")
        assert out.shape == (3, 3, 16)
        assert bool(out.isfinite().all())
        assert (out[0] - out[2]).abs().max() > 1e-2

    def test_padded_length_does_not_matter(self) -> None:
        short, long = make_encoder(4), make_encoder(8)
        weights = long.state_dict()
        short.load_state_dict({**weights, "position": weights["position"][:4]})
        for prompt in ("a", "a red", "a red ball falls"):
            torch.testing.assert_close(encode(short, prompt, length=4), encode(long, prompt), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("train", [False, True])
    def test_padding_is_not_read(self, train: bool) -> None:
        encoder = make_encoder().train(train)
        before = encode(encoder, "a red ball", "red ball falls a")
        with torch.no_grad():
            encoder.position[3:] += 5
            encoder.embedding.weight[PAD] += 5
        after = encode(encoder, "a red ball", "red ball falls a")
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-6)
        assert (after[1] - before[1]).abs().max() > 1e-3  # its fourth word stands where the position moved

    def test_order_of_words_matters(self) -> None:
        a, b = encode(make_encoder(), "a red ball", "ball red a")
        assert (a - b).abs().max() > 1e-3

    def test_unknown_words_are_read_as_one(self) -> None:
        encoder = make_encoder()
        a, b, c = encode(encoder, "a zebra falls", "a giraffe falls", "a red falls")
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert (a - c).abs().max() > 1e-3

    @pytest.mark.parametrize("train", [False, True])
    def test_empty_prompt_gives_numbers_and_gradients(self, train: bool) -> None:
        encoder = make_encoder().train(train)
        out = encoder(Tokenizer(VOCABULARY, 8)(["", "a red ball"]))
        assert bool(out.isfinite().all())
        out.square().sum().backward()
        grads = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert grads
        assert all(bool(g.isfinite().all()) for g in grads)

    def test_empty_prompt_is_the_same_in_any_company(self) -> None:
        encoder = make_encoder()
        alone = encode(encoder, "")
        torch.testing.assert_close(encode(encoder, "a red ball", "")[1:], alone, rtol=0, atol=1e-6)

    def test_evaluation_without_gradients_equals_training(self) -> None:
        # Torch takes another path through its attention there.
        encoder = make_encoder()
        ids = Tokenizer(VOCABULARY, 8)(["a red ball", ""])
        torch.testing.assert_close(encode(encoder, "a red ball", ""), encoder.train()(ids), rtol=0, atol=1e-5)
