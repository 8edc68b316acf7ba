import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.objectives.config import ObjectiveSection
from understudy.recipes.config import LoraConfig, RunConfig, StudentConfig, TrainConfig
from understudy.students.bundle import Bundle, ClipForm, save_bundle
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
from understudy.training.data import TeacherClips
from understudy.training.loop import Objective

# One thread per process: test processes run side by side, and torch slows down badly on cores it has to share.
torch.set_num_threads(1)

# Time limits are pytest's business; a busy machine must not fail a property.
settings.register_profile("understudy", deadline=None)
settings.load_profile("understudy")

TINY = {
    "channels": 4,
    "height": 4,
    "width": 4,
    "patch": 2,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "max_frames": 6,
    "text_length": 6,
    "text_tokens": 2,
    "vocabulary": ("a", "red", "ball", "falls"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--curves",
        choices=("near", "exact", "rewrite"),
        default="near",
        help="hold the replays of tests/direction to their curves within a tolerance or to the bit, or make these anew",
    )


@pytest.fixture
def make_student() -> Callable[..., CausalVideoTransformer]:
    """Tiny students; equal seeds give equal weights whatever the block or window.

    Every parameter is moved off its start, since a fresh student's output layer is zero and would hide all else.
    """

    def make(seed: int = 0, **spec: object) -> CausalVideoTransformer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = CausalVideoTransformer(TransformerSpec(**{**TINY, **spec})).eval()  # type: ignore[arg-type]
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return student

    return make


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A student of a few weights that draws 8 frames of 16x16 at 12 fps, in four blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = TransformerSpec(
            channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("red", "ball")
        )
        codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval()
        student = CausalVideoTransformer(spec).eval()
    save_bundle(Bundle(student, codec, (1.0, 0.5), ClipForm(16, 16, 12.0, 8), "test"), tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2-VL with a tokenizer of a few words."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    chat = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|endoftext|>")
    known = ("<unk>", "a", "red", "blue", "ball", "falls", "rate", "quality", "motion", "text", ":", "user", "system")
    path = tmp_path_factory.mktemp("qwen")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate((*chat, *known))}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<|endoftext|>", unk_token="<unk>"
    )
    tokenizer.add_tokens(list(chat), special_tokens=True)
    tokenizer.save_pretrained(path)
    config = transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": 32,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "mlp_ratio": 2,
        },
        video_token_id=chat.index("<|video_pad|>"),
        image_token_id=31,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Qwen2VLModel(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return path


Build = Callable[..., tuple[Objective, CausalVideoTransformer]]


@pytest.fixture
def bundle() -> Bundle:
    torch.manual_seed(0)
    spec = TransformerSpec(
        channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("red", "ball", "blue")
    )
    student = CausalVideoTransformer(spec)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    return Bundle(student.eval(), codec, (1.0, 0.5), ClipForm(16, 16, 12.0, 8), "test")


@pytest.fixture
def data() -> TeacherClips:
    latents = torch.randn((6, 4, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    return TeacherClips(("red ball", "blue ball", "ball"), latents, ((0, 1), (2, 3), (4, 5)))


@pytest.fixture
def build(bundle: Bundle, data: TeacherClips) -> Build:
    def make(
        objective: ObjectiveSection | None = None,
        discriminator: DiscriminatorConfig | None = None,
        train: TrainConfig | None = None,
        seed: int = 0,
        lora: LoraConfig | None = None,
    ) -> tuple[Objective, CausalVideoTransformer]:
        settings = objective or AFDConfig(group=4)
        config = RunConfig(
            seed=seed,
            student=StudentConfig(lora=lora),
            objective=settings,
            discriminator=discriminator or DiscriminatorConfig(size=16, width=16, warmup=3, pool=8),
            train=train or TrainConfig(steps=5, prompts=2, warmup=1, checkpoint_every=2),
        )
        return build_objective(settings, config.train, config, data, bundle), bundle.student

    return make


DOOR_RECIPE = """
name: mini
out: run
teacher: {kind: python, call: "door_parts:Grey"}
prompts: {kind: file, train: train.txt, held_out: held_out.txt}
clips: {store: store, per_prompt: 1}
student: {start: start}
discriminator: {warmup: 1, pool: 4, size: 16, width: 16, steps: 1, rerender: null}
objective: {kind: afd, group: 2}
train: {steps: 2, prompts: 2, warmup: 1, checkpoint_every: 1}
evaluation: {prompts: 1, rollouts: 2, reference: 2, floor: 2, shown: 1}
"""


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Path) -> Path:
    """An empty folder to work in, with a recipe, a tiny start student, prompts, and plug-ins in the module door_parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = (Path(__file__).parent / "data" / "door_parts.py").read_text(encoding="utf-8")
    for name, text in {
        "recipe.yaml": DOOR_RECIPE,
        "train.txt": "red ball\nball\n",
        "held_out.txt": "red\n",
        "door_parts.py": source,
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "door_parts", raising=False)
    return tmp_path
