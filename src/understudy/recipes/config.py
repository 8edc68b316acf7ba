"""One typed, frozen description of a run. Unknown keys are errors; the resolved description is saved beside the run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator

from understudy.recipes.kinds import DISCRIMINATORS, OBJECTIVES, REWARDS, TEACHERS
from understudy.recipes.section import Section, check_name, far

# Kinds are found in their rooms' folders; a type checker is told what they have in common.
if TYPE_CHECKING:
    from understudy.discriminators.config import JudgeConfig as AnyDiscriminator
    from understudy.objectives.config import ObjectiveSection as AnyObjective
    from understudy.rewards.config import RewardSection as AnyReward
    from understudy.teachers.config import TeacherSection as AnyTeacher
else:
    AnyDiscriminator, AnyObjective = DISCRIMINATORS.union, OBJECTIVES.union
    AnyReward, AnyTeacher = REWARDS.union, TEACHERS.union

_Pixels = Annotated[int, Field(ge=far(1), le=far(16_384))]
Family = Literal["drop", "throw", "bounce", "collision", "ramp", "pendulum"]
Colour = Literal["red", "yellow", "green", "cyan", "blue", "purple"]


class WorldPromptsConfig(Section):
    """Prompts from the embedded world's grammar; whole scenes are held out for evaluation."""

    kind: Literal["world"] = "world"
    families: tuple[Family, ...] = ("drop", "throw", "bounce")
    """What happens; the start students that ship know drop, throw and bounce."""
    colours: tuple[Colour, ...] = ("red", "yellow", "green", "blue")
    """Colours of the balls; the start students that ship know these four."""
    sizes: tuple[Literal["small", "large"], ...] = ("small", "large")
    """Sizes of the balls."""
    materials: tuple[Literal["rubber", "steel", "clay"], ...] = ()
    """Materials the prompts name (rubber, steel, clay): each has its own restitution. Empty: one law for all."""
    places: tuple[Literal["moon", "earth", "jupiter"], ...] = ()
    """Places the prompts name (moon, earth, jupiter): each has its own gravity. Empty: one law for all."""
    per_scene: int = Field(4, ge=1, le=far(1000))
    """Paraphrases per scene."""
    held_out: float = Field(0.3, gt=0, lt=1)
    """Share of scenes that training never sees."""
    split: int = Field(0, ge=0, lt=far(2**62))
    """Which draw decides the scenes held out. Settings were chosen on 0: evidence is measured on others."""


class FilePromptsConfig(Section):
    """Prompts from files (.txt, .jsonl, .json, .csv or .tsv)."""

    kind: Literal["file"] = "file"
    train: Path
    """Prompts to collect and train on."""
    held_out: Path
    """Prompts for evaluation; none may be in ``train``."""


class DamageConfig(Section):
    """Harm done to training clips, to see what a method makes of clips that are not clean; by default none."""

    crf: float | None = Field(None, ge=0, le=51)
    """Compress again at this H.264 rate factor: 40 is heavy."""
    watermark: float = Field(0.0, ge=0, le=1)
    """Strength of a mark in the lower left corner."""
    fps: float | None = Field(None, gt=0, le=far(1000))
    """Keep only this many frames per second."""
    size: int | None = Field(None, ge=8, le=far(8192))
    """Scale down to this side in pixels."""
    wrong: float = Field(0.0, ge=0, le=1)
    """Share of the prompts that get clips of another prompt."""


class ClipsConfig(Section):
    """Teacher clips."""

    store: Path = Path("runs/store")
    """Content-addressed clip store; collected once, reused by every run."""
    per_prompt: int = Field(2, ge=1, le=far(100_000))
    """Clips per training prompt."""
    seed: int = Field(0, ge=0, lt=far(2**62))
    """Which takes the teacher is asked for; apart from the run's seed, so that runs of other seeds share the store."""
    limit: int | None = Field(None, ge=1, lt=far(2**31))
    """Train on this many of the clips only, drawn by the run's seed and spread over the prompts; null: all."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """What happens to clips of another aspect ratio than the student's: their middle is taken, black bars are put around
    all of it, or it is pulled into shape."""
    damage: DamageConfig = DamageConfig()
    """Harm done to the training clips on their way from the store."""


class LoraConfig(Section):
    """Low-rank adapters on the student's linear layers; all policies then share its frozen weights."""

    rank: int = Field(256, ge=1, le=far(65_536))
    """Rank of each adapter."""
    alpha: int = Field(256, ge=1, le=far(1_000_000))
    """Their scale: an adapter acts with weight alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Ends of the names of the layers to adapt, such as self_attn.q; null: all linear layers of the blocks."""


class WanCodecConfig(Section):
    """The Wan video autoencoder (needs the wan extra)."""

    kind: Literal["wan"] = "wan"
    path: Path
    """Wan2.1_VAE.pth or the folder that holds it, or a diffusers folder with vae/config.json."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its weights and arithmetic."""
    tile: int | None = Field(None, ge=32, le=far(16_384))
    """Side in pixels of the tiles that larger frames are coded in, to save memory; null: frames are coded whole."""


class UMT5Config(Section):
    """UMT5 prompts, each encoded once and kept on disk (needs the wan extra)."""

    kind: Literal["umt5"] = "umt5"
    path: Path
    """Wan's own folder (models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl), or a diffusers one (text_encoder, tokenizer)."""
    cache: Path = Path("runs/text")
    """Folder of the embeddings; runs share it."""
    length: int = Field(512, ge=1, le=far(65_536))
    """Tokens a prompt is cut or filled up to."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the encoder's weights and arithmetic."""


class CollectionConfig(Section):
    """How a teacher is asked. None of this makes another run."""

    concurrency: int | None = Field(None, ge=1, le=256)
    """Jobs at the same time; null: 2 for services and servers, 1 otherwise."""
    per_minute: float | None = Field(None, gt=0, ge=far(0.001), le=far(1e6))
    """Submissions per minute at most; null: no limit."""
    poll: float = Field(2.0, gt=0, ge=far(0.001), le=far(86_400))
    """Most seconds between two questions about one job; once it is known how long jobs take, it is asked near that time."""
    attempts: int = Field(2, ge=1, le=far(100))
    """Submissions per clip and collection: what the teacher lost or failed is asked for again, and may cost again."""
    timeout: float = Field(3600.0, gt=0, le=far(1e7))
    """Seconds after which a collection stops waiting for a job and its clip; it stays open, for the next one."""
    budget: float | None = Field(None, ge=0, le=far(1e12))
    """Money the teacher may cost in this store, over all collections; null: no limit."""
    budget_clips: int | None = Field(None, ge=0, lt=far(2**31))
    """Jobs it may be given in this store, over all collections; null: no limit."""
    permission: str = ""
    """What permits you to train on the outputs where the terms forbid it or are unknown; goes into every record."""


class StudentSection(Section):
    """The student to train."""

    start: str = "builtin:frame"
    """Bundle of student, codec and sampler: a folder, or builtin:frame (frame-wise), builtin:block (block-wise) or
    builtin:base (not distilled); or a public Wan checkpoint, file or folder, together with ``preset``."""
    preset: str | None = None
    """Blocks, window, sampler and clip form of a public checkpoint: selfforcing, causalforcing_chunk,
    causalforcing_frame, longlive, ...; it also needs ``codec`` and ``text``."""
    size: tuple[_Pixels, _Pixels] | None = None
    """Height and width in pixels of a public checkpoint's clips; null: the preset's."""
    frames: int | None = Field(None, ge=1, le=far(100_000))
    """Pixel frames of a public checkpoint's clips; null: the preset's."""
    levels: tuple[float, ...] | None = Field(None, max_length=1000)
    """Noise levels of the few-step sampler, descending from 1; null: those the student was distilled to."""
    window: int | None = Field(None, ge=0, le=far(1_000_000))
    """Latent frames attended to, own block and sink included; 0: all; null: the student's own setting."""
    sink: int | None = Field(None, ge=0, le=far(1_000_000))
    """First latent frames that stay visible when the window rolls; null: the student's own setting."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights; null: full fine-tuning."""
    codec: WanCodecConfig | None = None
    """Where its codec is; null: the one that the bundle holds or names."""
    text: UMT5Config | None = None
    """Where its text encoder is; null: the one that the bundle holds or names."""
    adapter: str | None = None
    """LoRA merged into a public checkpoint: LongLive's lora.pt, a PEFT folder, or a file in kohya's, ComfyUI's or
    diffusers' names."""
    adapter_alpha: float | None = Field(None, gt=0, le=far(1e6))
    """Its alpha; null: what the file or its folder says, otherwise its rank (as LongLive's)."""
    weights: str | None = None
    """Which weights of a public .pt file: generator, generator_ema, or the key they are under; null: the averaged ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of a public checkpoint's weights in memory; bfloat16 needs ``lora`` and ``train.bf16``: adapters stay float32."""
    recompute: float = Field(1.0, ge=0, le=1)
    """Share of a public checkpoint's layers that are made anew in the backward pass: less memory, more time."""

    what: ClassVar[str] = "student"

    _given: Any = PrivateAttr(default=None)

    def holding(self, given: Any) -> Self:
        """Return the section with a bundle, or the function that makes one, that is there already and wins."""
        section = self.model_copy()
        section._given = given
        return section

    @property
    def given(self) -> Any:
        """The bundle or function that it holds, or None."""
        return self._given


class StudentConfig(StudentSection):
    """A student that has a name: it ships, lies in a folder, or is a public checkpoint."""

    kind: Literal["named"] = "named"


class PythonStudentConfig(StudentSection):
    """A student that a class or function of yours makes."""

    kind: Literal["python"] = "python"
    call: str = Field(pattern=r"^[^:\s]+:[^:\s]+$")
    """A class or function of yours, as module:Name, that returns an understudy.Bundle."""
    settings: dict[str, Any] = Field({})
    """Keyword arguments for it."""


class TrainConfig(Section):
    """Optimisation of the student."""

    steps: int = Field(60, ge=1, le=far(10_000_000))
    """Student updates."""
    prompts: int = Field(8, ge=1, le=far(4096))
    """Prompts P per update; a batch is P times the group."""
    lr: float = Field(4e-4, gt=0, le=far(10))
    """AdamW learning rate."""
    warmup: int = Field(10, ge=0, le=far(10_000_000))
    """Updates of linear learning-rate warm-up."""
    decay: float = Field(0.3, ge=0, le=1)
    """Share of the updates over which the learning rate falls to zero."""
    weight_decay: float = Field(1e-4, ge=0, le=far(1000))
    """AdamW weight decay."""
    clip: float = Field(1.0, gt=0, le=far(1e9))
    """Gradient norm limit."""
    ema: float = Field(0.97, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated and shipped."""
    accumulate: int = Field(1, ge=1, le=far(1_000_000))
    """Micro-batches per update."""
    bf16: bool = False
    """bfloat16 autocast (GPUs)."""
    checkpoint_every: int = Field(20, ge=1, le=far(10_000_000))
    """Steps between checkpoints."""


class EvaluationConfig(Section):
    """Evaluation on held-out prompts."""

    prompts: int = Field(36, ge=1, le=far(100_000))
    """Held-out prompts."""
    rollouts: int = Field(8, ge=2, le=far(10_000))
    """Student clips per prompt."""
    reference: int = Field(8, ge=2, le=far(10_000))
    """Teacher clips per held-out prompt that students are compared with."""
    floor: int = Field(4, ge=2, le=far(10_000))
    """Further teacher clips per held-out prompt, measured as if they were a student's: the floor."""
    shown: int = Field(4, ge=1, le=far(1000))
    """Prompts whose clips the report plays."""


class CompareConfig(Section):
    """Another arm trained from the same start with the same number of updates, shown in the report."""

    objective: AnyObjective
    lr: float | None = Field(None, gt=0, le=far(10))
    """Learning rate; null: the run's."""


class RunConfig(Section):
    """A whole run."""

    name: str = Field("run", max_length=200)
    """Shown in the report."""
    out: Path = Path("runs/run")
    """Run folder."""
    seed: int = Field(0, ge=0, lt=far(2**62))
    """Decides every random draw of training."""
    threads: int = Field(1, ge=0, le=far(4096))
    """Torch threads; 0 leaves the choice to torch. Two threads on busy cores can be ten times slower than one."""
    device: str = Field("cpu", max_length=64)
    """Torch device: cpu, cuda, cuda:1."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where curves, gauges and clips are shown as well while the run goes; metrics.jsonl is written in any case."""
    teacher: AnyTeacher = TEACHERS.default
    prompts: Annotated[WorldPromptsConfig | FilePromptsConfig, Field(discriminator="kind")] = WorldPromptsConfig()
    clips: ClipsConfig = ClipsConfig()
    collection: CollectionConfig = CollectionConfig()
    student: Annotated[StudentConfig | PythonStudentConfig, Field(discriminator="kind")] = StudentConfig()
    discriminator: AnyDiscriminator = DISCRIMINATORS.default
    objective: AnyObjective = OBJECTIVES.default
    rewards: dict[str, AnyReward] = Field({})
    """What else scores finished rollouts, by names of your choice: beside the discriminator, or instead of it."""
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compare: dict[str, CompareConfig] = Field({}, max_length=100)
    """Other arms, by name."""

    @field_validator("compare")
    @classmethod
    def _names(cls, compare: dict[str, CompareConfig]) -> dict[str, CompareConfig]:
        for name in compare:
            if name in ("start", "teacher"):
                raise ValueError(
                    f"an arm cannot be called {name}, which is measured beside all arms: give another name"
                )
            check_name(name)
        return compare
