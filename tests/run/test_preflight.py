"""Every path of a recipe is looked at before anything is made, by doctor, --dry-run and train alike."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from understudy.cli import main
from understudy.recipes import shipped
from understudy.recipes.files import load_recipe
from understudy.run.preflight import look
from understudy.students.checkpoints.layout import WanSizes, renamed, shapes
from understudy.students.checkpoints.write import write_diffusers

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

RECIPES = shipped.FOLDER
RECORDING = Path(__file__).parents[1] / "data" / "mapping.safetensors"


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory, qwen_folder: Path) -> Path:
    """Tiny files of every part that the Wan recipe names, in the layouts that users have."""
    folder = tmp_path_factory.mktemp("parts")
    with safe_open(RECORDING, framework="pt") as file:
        told = json.loads(file.metadata()["config"])
        tensors = {name[2:]: file.get_tensor(name) for name in file.keys() if name.startswith("w.")}  # noqa: SIM118
    sizes = WanSizes(**{name: told[name] for name in ("dim", "ffn_dim", "heads", "layers", "freq_dim", "text_dim")})
    write_diffusers(renamed(tensors, sizes, "original"), sizes, folder / "wan")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusers.AutoencoderKLWan(base_dim=4).save_pretrained(folder / "pipe" / "vae")
        config = transformers.UMT5Config(
            vocab_size=9, d_model=sizes.text_dim, d_kv=4, d_ff=8, num_layers=1, num_heads=2
        )
        transformers.UMT5EncoderModel(config).save_pretrained(folder / "pipe" / "text_encoder")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(
        folder / "pipe" / "tokenizer"
    )
    shutil.copytree(qwen_folder, folder / "qwen")
    (folder / "clips").mkdir()
    for name in ("train", "held_out"):
        (folder / "clips" / f"{name}.txt").write_text(f"a {name} ball\n")
    return folder


@pytest.fixture
def recipe(parts: Path, tmp_path: Path):
    def write(name: str = "selfforcing_1.3b", **changes: object) -> Path:
        values = {
            "base": str(RECIPES / f"{name}.yaml"),
            "out": str(tmp_path / "run"),
            "device": "cpu",
            "teacher": {"kind": "folder", "path": str(parts / "clips")},
            "prompts": {
                "kind": "file",
                "train": str(parts / "clips" / "train.txt"),
                "held_out": str(parts / "clips" / "held_out.txt"),
            },
            "clips": {"store": str(tmp_path / "store")},
            "student.start": str(parts / "wan"),
            "student.codec.path": str(parts / "pipe"),
            "student.text.path": str(parts / "pipe"),
            "student.text.cache": str(tmp_path / "text"),
            "student.size": [32, 48],
            "student.lora.rank": 2,
            "discriminator.path": str(parts / "qwen"),
            "discriminator.reward": None,
            **changes,
        }
        nested: dict = {}
        for key, value in values.items():
            *above, last = key.split(".")
            place = nested
            for part in above:
                place = place.setdefault(part, {})
            place[last] = str(value) if isinstance(value, Path) else value
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nested))
        return tmp_path / "recipe.yaml"

    return write


def lines(capsys, *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_recipe_whose_files_all_fit_is_fine(recipe, tmp_path, capsys) -> None:
    found = look(load_recipe(recipe()))
    assert [(item.key, item.ok) for item in found] == [
        ("student.codec.path", True),
        ("student.text.path", True),
        ("student.start", True),
        ("discriminator.path", True),
    ], found
    code, said = lines(capsys, "train", recipe(), "--dry-run")
    assert code == 0
    assert "not ready: " not in said
    assert not (tmp_path / "run").exists()


KEYS = ("student.start", "student.codec.path", "student.text.path", "discriminator.path", "discriminator.reward")


@pytest.mark.parametrize("key", [*KEYS, "student.adapter", "discriminator.weights"])
def test_one_missing_path_is_named_by_all_three_and_claims_no_folder(recipe, tmp_path, capsys, key) -> None:
    path = recipe(**{key: tmp_path / "nowhere"})
    for verb in (("train", path), ("train", path, "--dry-run"), ("doctor", path)):
        code, said = lines(capsys, *verb)
        named = [line for line in said.splitlines() if f"{key}: " in line]
        assert len(named) == 1, said
        assert f"{tmp_path / 'nowhere'} is missing" in named[0]
        assert code == (0 if "--dry-run" in verb else 1)
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "store").exists()


def test_all_that_is_missing_is_one_list_with_source_size_and_licence(recipe, tmp_path, capsys) -> None:
    code, said = lines(capsys, "train", recipe(**dict.fromkeys(KEYS, tmp_path / "nowhere")))
    assert code == 1
    named = {line.removeprefix("error: ").partition(":")[0]: line for line in said.splitlines()}
    assert named.keys() == set(KEYS)
    for key in KEYS:
        assert "huggingface.co" in named[key]
        assert " GB" in named[key]
    assert "Wan2.1_VAE.pth, 0.5 GB, Apache-2.0" in named["student.codec.path"]


def test_what_does_not_fit_is_refused_by_all_three(recipe, parts, tmp_path, capsys) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    folders = {name: tmp_path / name for name in ("wan", "pipe", "qwen")}
    for name, folder in folders.items():
        shutil.copytree(parts / name, folder)
    for file in sorted(file for folder in folders.values() for file in folder.rglob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in sorted(content.keys())[1:]}
        save_file(tensors, file, {"format": "pt"})
    changes = {
        "student.start": folders["wan"],
        "student.codec.path": folders["pipe"],
        "student.text.path": folders["pipe"],
        "discriminator.path": folders["qwen"],
    }
    for key, place in changes.items():
        path = recipe(**{key: place})
        for verb in (("train", path), ("train", path, "--dry-run"), ("doctor", path)):
            code, said = lines(capsys, *verb)
            assert code == 1, said
            assert sum(f"{key}: " in line and "missing" in line for line in said.splitlines()) == 1, said
    assert not (tmp_path / "run").exists()


def test_the_discriminator_s_files_do_not_matter_where_there_is_none(recipe, tmp_path) -> None:
    gone = {"discriminator.path": tmp_path / "nowhere", "objective": {"kind": "sft"}}
    assert all(item.ok for item in look(load_recipe(recipe(**gone))))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student.frames": 121}, "are 31 latent frames, which are not whole blocks of [3]"),
        ({"student.frames": 129}, "are 33 latent frames, past the 21 that it was trained on: draw 81 at most"),
        ({"student.size": [40, 48]}, "student.size [40, 48] must be multiples of [16, 16]"),
        ({"student.window": 2}, "window 2 must hold the sink"),
        ({"student.levels": [0.5]}, "student.levels [0.5] must fall from 1"),
        ({"train": {"bf16": False}}, "set student.lora and train.bf16"),
    ],
    ids=str,
)
def test_a_dry_run_refuses_what_training_refuses(recipe, tmp_path, capsys, changes, says) -> None:
    path = recipe(**changes)
    for verb in (("train", path, "--dry-run"), ("train", path)):
        code, said = lines(capsys, *verb)
        assert code == 1, said
        assert says in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def sparse(path: Path, sizes: WanSizes) -> Path:
    """A file of public names and shapes whose values take no space on the disk."""
    places, end = {}, 0
    for name, shape in shapes(sizes).items():
        size = 2 * torch.Size(shape).numel()
        places[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(places).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


TI2V = WanSizes(dim=3072, ffn_dim=14336, heads=24, layers=30, in_channels=48, out_channels=48)
T2V_14B = WanSizes(dim=5120, ffn_dim=13824, heads=40, layers=40)


def test_wan_2_2_has_a_stride_of_16(recipe, tmp_path, capsys) -> None:
    start = sparse(tmp_path / "causal_5b.safetensors", TI2V)
    changes = {"student.start": start, "student.size": [480, 832], "student.codec.path": tmp_path / "nowhere"}
    code, said = lines(capsys, "train", recipe(**changes), "--dry-run")
    assert code == 0, said
    assert "21 latent frames of 390 tokens, 8,190 in all" in said
    code, said = lines(capsys, "train", recipe(**{"student.start": start, "student.size": [480, 832]}), "--dry-run")
    assert code == 1
    assert "draws latents of 48 channels, the autoencoder" in said


def test_a_file_of_14b_is_not_read_for_a_dry_run(recipe, tmp_path, capsys) -> None:
    start = sparse(tmp_path / "causal_14b.safetensors", T2V_14B)
    code, said = lines(capsys, "train", recipe(**{"student.start": start, "student.size": [480, 832]}), "--dry-run")
    assert code == 0, said
    assert "14,288,491,584 parameters" in said or "parameters" in said
    assert start.stat().st_blocks * 512 < 1e6


def test_an_image_to_video_model_is_refused_before_it_costs_anything(recipe, tmp_path, capsys) -> None:
    sizes = WanSizes(dim=5120, ffn_dim=13824, heads=40, layers=40, in_channels=36, image_dim=1280)
    start = sparse(tmp_path / "wan_i2v.safetensors", sizes)
    code, said = lines(capsys, "train", recipe(**{"student.start": start}), "--dry-run")
    assert code == 1
    assert "is an image-to-video Wan, which needs image features: give a text-to-video one" in said


def test_a_bidirectional_start_is_said_to_be_one(recipe, parts, tmp_path, capsys) -> None:
    start = tmp_path / "Wan2.1-T2V-1.3B-Diffusers"
    shutil.copytree(parts / "wan", start / "transformer")
    (start / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    path = recipe(**{"student.start": start})
    code, said = lines(capsys, "train", path, "--dry-run")
    assert code == 0, said
    assert "note: student.start: looks like a bidirectional Wan" in said
    code, said = lines(capsys, "doctor", path)
    assert sum(line.startswith("warn  student.start: looks like a bidirectional") for line in said.splitlines()) == 1


def test_the_key_of_a_trainer_s_own_file_is_named_in_the_recipe(recipe, parts, tmp_path) -> None:
    with safe_open(next((parts / "wan").glob("*.safetensors")), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    torch.save({"mine": tensors}, tmp_path / "m.pt")
    found = [item for item in look(load_recipe(recipe(**{"student.start": tmp_path / "m.pt"}))) if item.ok is False]
    assert "there is one under 'mine': name it with student.weights" in found[0].said
