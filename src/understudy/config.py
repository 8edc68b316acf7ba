"""One typed, frozen description of a run. Unknown keys are errors; the resolved description is saved beside the run."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from understudy.teacher_config import (
    ApiTeacherConfig,
    ComfyTeacherConfig,
    DiffusersTeacherConfig,
    FolderTeacherConfig,
    Section,
    WorldTeacherConfig,
)

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
    per_scene: int = Field(4, ge=1)
    """Paraphrases per scene."""
    held_out: float = Field(0.3, gt=0, lt=1)
    """Share of scenes that training never sees."""
    split: int = Field(0, ge=0)
    """Which draw decides the scenes held out. Settings were chosen on 0: evidence is measured on others."""


class FilePromptsConfig(Section):
    """Prompts from files (.txt, .jsonl or .csv)."""

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
    fps: float | None = Field(None, gt=0)
    """Keep only this many frames per second."""
    size: int | None = Field(None, ge=8)
    """Scale down to this side in pixels."""
    wrong: float = Field(0.0, ge=0, le=1)
    """Share of the prompts that get clips of another prompt."""


class ClipsConfig(Section):
    """Teacher clips."""

    store: Path = Path("runs/store")
    """Content-addressed clip store; collected once, reused by every run."""
    per_prompt: int = Field(2, ge=1)
    """Clips per training prompt."""
    seed: int = Field(0, ge=0)
    """Which takes the teacher is asked for; apart from the run's seed, so that runs of other seeds share the store."""
    limit: int | None = Field(None, ge=1)
    """Train on this many of the clips only, drawn by the run's seed and spread over the prompts; null: all."""
    damage: DamageConfig = DamageConfig()
    """Harm done to the training clips on their way from the store."""


class LoraConfig(Section):
    """Low-rank adapters on the student's linear layers; all policies then share its frozen weights."""

    rank: int = Field(256, ge=1)
    """Rank of each adapter."""
    alpha: int = Field(256, ge=1)
    """Their scale: an adapter acts with weight alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Ends of the names of the layers to adapt, such as self_attn.q; null: all linear layers of the blocks."""


class WanCodecConfig(Section):
    """The Wan video autoencoder of a diffusers folder (needs the wan extra)."""

    kind: Literal["wan"] = "wan"
    path: Path
    """Folder with vae/config.json, or that folder itself."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its weights and arithmetic."""
    tile: int | None = Field(None, ge=32)
    """Side in pixels of the tiles that larger frames are coded in, to save memory; null: frames are coded whole."""


class UMT5Config(Section):
    """UMT5 prompts, each encoded once and kept on disk (needs the wan extra)."""

    kind: Literal["umt5"] = "umt5"
    path: Path
    """Diffusers pipeline folder with text_encoder and tokenizer."""
    cache: Path = Path("runs/text")
    """Folder of the embeddings; runs share it."""
    length: int = Field(512, ge=1)
    """Tokens a prompt is cut or filled up to."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the encoder's weights and arithmetic."""


class CollectionConfig(Section):
    """How a teacher is asked. None of this makes another run."""

    concurrency: int | None = Field(None, ge=1, le=256)
    """Jobs at the same time; null: 2 for services and servers, 1 otherwise."""
    per_minute: float | None = Field(None, gt=0)
    """Submissions per minute at most; null: no limit."""
    poll: float = Field(2.0, gt=0)
    """Most seconds between two questions about one job; once it is known how long jobs take, it is asked near that time."""
    attempts: int = Field(2, ge=1)
    """Submissions per clip and collection: what the teacher lost or failed is asked for again, and may cost again."""
    timeout: float = Field(3600.0, gt=0)
    """Seconds after which a collection stops waiting for a job and its clip; it stays open, for the next one."""
    budget: float | None = Field(None, ge=0)
    """Money the teacher may cost in this store, over all collections; null: no limit."""
    budget_clips: int | None = Field(None, ge=0)
    """Jobs it may be given in this store, over all collections; null: no limit."""
    permission: str = ""
    """What permits you to train on the outputs where the terms forbid it or are unknown; goes into every record."""


class StudentConfig(Section):
    """The student to train."""

    start: str = "builtin:frame"
    """Bundle of student, codec and sampler: a folder, or builtin:frame (frame-wise), builtin:block (block-wise) or
    builtin:base (not distilled); or a public Wan checkpoint, file or folder, together with ``preset``."""
    preset: str | None = None
    """Blocks, window, sampler and clip form of a public checkpoint: selfforcing, causalforcing_chunk,
    causalforcing_frame, longlive, ...; it also needs ``codec`` and ``text``."""
    size: tuple[int, int] | None = None
    """Height and width in pixels of a public checkpoint's clips; null: the preset's."""
    frames: int | None = Field(None, ge=1)
    """Pixel frames of a public checkpoint's clips; null: the preset's."""
    levels: tuple[float, ...] | None = None
    """Noise levels of the few-step sampler, descending from 1; null: those the student was distilled to."""
    window: int | None = Field(None, ge=0)
    """Latent frames attended to, own block and sink included; 0: all; null: the student's own setting."""
    sink: int | None = Field(None, ge=0)
    """First latent frames that stay visible when the window rolls; null: the student's own setting."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights; null: full fine-tuning."""
    codec: WanCodecConfig | None = None
    """Where its codec is; null: the one that the bundle holds or names."""
    text: UMT5Config | None = None
    """Where its text encoder is; null: the one that the bundle holds or names."""
    adapter: str | None = None
    """LoRA file merged into a public checkpoint: LongLive's lora.pt, or a PEFT folder."""
    adapter_alpha: float | None = Field(None, gt=0)
    """Its alpha; null: what a PEFT folder says, otherwise its rank (as LongLive's)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of a public checkpoint's weights in memory; bfloat16 needs ``lora`` and ``train.bf16``: adapters stay float32."""
    recompute: float = Field(1.0, ge=0, le=1)
    """Share of a public checkpoint's layers that are made anew in the backward pass: less memory, more time."""


class JudgeConfig(Section):
    """What every kind of discriminator has."""

    noise: float = Field(0.4, ge=0)
    """Instance noise on frames in [-1, 1]."""
    rerender: float | None = Field(0.5, gt=0, lt=1)
    """Noise level from which the start student draws teacher clips again in its own look; null: only the codec."""
    rerender_own: bool = True
    """Draw the student's rollouts again in the same way before they are scored, so that both sides carry its traces."""
    redraws: int = Field(1, ge=1, le=256)
    """Times each teacher clip is drawn again (with ``rerender``), each with noise of its own."""
    lr: float = Field(5e-4, ge=0)
    """AdamW learning rate; 0 freezes it after warm-up."""
    penalty: float = Field(3.0, ge=0)
    """Weight of the R1 and R2 finite-difference penalties; 0 spares their pass."""
    sigma: float = Field(0.1, gt=0)
    """Step of the finite differences."""
    ceiling: float = Field(0.95, gt=0.5, le=1)
    """It rests while it ranks more than this share of pairs rightly: past that it ranks trifles. 1: never rests."""
    rests_above: float | None = Field(None, gt=0, le=1)
    """The same once the student moves; null: as ``ceiling``. Low: it learns only where the student has caught up."""
    warmup: int = Field(60, ge=0)
    """Steps on a fixed pool of start rollouts before the student moves."""
    pool: int = Field(480, ge=1)
    """Rollouts in that pool."""
    steps: int = Field(2, ge=0)
    """Steps per student update."""
    loss: Literal["paired", "unpaired"] = "paired"
    """paired: Bradley-Terry on pairs of a prompt; unpaired: binary cross-entropy, an ablation."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of the teacher clips it never trains on: pair accuracy on them shows when it memorises the others."""
    controller: Literal["none", "rate"] = "none"
    """rate: lr is only where it begins; it is then led so that pair accuracy stays inside ``band``."""
    band: tuple[float, float] = (0.7, 0.9)
    """Pair accuracies between which the controller leaves the learning rate alone."""
    rates: tuple[float, float] = (1e-5, 5e-4)
    """Smallest and largest learning rate that the controller may choose; it spends most of a run near the largest."""


class DiscriminatorConfig(JudgeConfig):
    """A small whole-clip network of convolutions, trained from nothing."""

    kind: Literal["clip_cnn"] = "clip_cnn"
    redraws: int = Field(8, ge=1, le=256)
    """Times each teacher clip is drawn again (with ``rerender``), each with noise of its own: harder to memorise."""
    size: int = Field(24, ge=8)
    """Side in pixels of the frames it looks at."""
    width: int = Field(96, ge=8)
    """Features per frame."""
    skip_frames: int = Field(2, ge=0)
    """First pixel frames it cannot see."""


class VideoRewardConfig(JudgeConfig):
    """VideoReward: Qwen2-VL with LoRA and a scalar head (needs the wan extra); defaults as far as the paper gives them."""

    kind: Literal["videoreward"] = "videoreward"
    path: Path
    """Transformers folder of Qwen2-VL-2B-Instruct, tokenizer included."""
    reward: Path | None = None
    """Public VideoReward weights, folder or file; null: fresh LoRA layers and head on the base model."""
    weights: Path | None = None
    """A trained discriminator's LoRA layers and head (discriminator.pt or .safetensors), put on top."""
    template: Path | None = None
    """Text file of the request, with {prompt} and the three rating tokens; null: the built-in one."""
    dimension: Literal["overall", "visual", "motion", "text"] = "overall"
    """Rating used as score; overall: the sum of the three."""
    rank: int = Field(64, ge=1)
    """Rank of LoRA on the language model's linear layers."""
    alpha: int = Field(128, ge=1)
    """LoRA's alpha; public weights were trained with 64 and 128."""
    fps: float = Field(2.0, gt=0)
    """Frames per second it looks at."""
    min_pixels: int = Field(128 * 28 * 28, ge=28 * 28)
    """Smallest area of a frame; smaller ones are enlarged."""
    max_pixels: int = Field(256 * 28 * 28, ge=28 * 28)
    """Largest area of a frame; larger ones are scaled down."""
    clips_at_once: int = Field(2, ge=1)
    """Clips that run through it together."""
    checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, a third more time."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the frozen weights and the arithmetic."""
    noise: float = Field(0.0, ge=0)
    """Instance noise on frames in [-1, 1]."""
    rerender: float | None = Field(None, gt=0, lt=1)
    """Noise level from which the start student draws teacher clips again in its own look; null: only the codec."""
    lr: float = Field(5e-6, ge=0)
    """AdamW learning rate; 0 freezes it after warm-up."""
    rates: tuple[float, float] = (1e-7, 5e-6)
    """Smallest and largest learning rate that the controller may choose; it spends most of a run near the largest."""
    penalty: float = Field(0.0, ge=0)
    """Weight of the R1 and R2 finite-difference penalties; 0 spares their pass."""
    pool: int = Field(64, ge=1)
    """Rollouts in the warm-up's pool."""


class OnPolicyConfig(Section):
    """What all objectives on the student's own rollouts have in common."""

    group: int = Field(8, ge=1)
    """Rollouts K per prompt."""
    prior: float = Field(0.15, ge=0)
    """Weight lambda of the pull towards the prior policy."""
    prior_policy: Literal["slow", "start"] = "slow"
    """slow: a slow average of the run's own average; start: the frozen start student (the paper)."""
    shared_blocks: int = Field(1, ge=0)
    """First blocks whose noise a group shares; they are left out of the loss."""
    shared_share: float = Field(1.0, ge=0, le=1)
    """Share of the updates whose groups share their first blocks; in the others every block is drawn and trained."""
    old_decay: float = Field(0.5, ge=0, lt=1)
    """Largest decay of the old policy; it rises from 0 by 0.02 per update."""


class AFDConfig(OnPolicyConfig):
    """Adversarial flow distillation."""

    kind: Literal["afd"] = "afd"
    reward: Literal["discriminator", "random"] = "discriminator"
    """random: the control that shows what the update does without information."""
    beta: float = Field(0.5, gt=0)
    """Mixing of the positive and negative branch; the loss is divided by it."""
    limit: float = Field(1.0, gt=0)
    """Advantage clip."""
    scope: Literal["group", "batch"] = "group"
    """Where the advantage's standard deviation is taken."""
    levels: Literal["sampler", "continuous"] = "sampler"
    """Noise levels of the update: the sampler's own, or uniform."""
    space: Literal["x0", "velocity"] = "x0"
    """Space of the loss."""
    branches: Literal["both", "positive", "rectified"] = "both"
    """positive: without the negative branch, an ablation; rectified: one regression to the old policy's velocity,
    moved by an exponential weight (after FlowAWR)."""
    temperature: float = Field(1.0, gt=0)
    """Of the exponential weight of ``rectified``: the lower, the more only the best rollouts count."""
    context: Literal["clean", "noisy"] = "clean"
    """What a block of the update sees of the past: the clean rollout, as in sampling, or, an ablation, its noised state."""
    by_block: bool = False
    """Update block by block from a cache, as in a rollout, instead of in one pass over the clip: no gradient reaches the
    past's keys, and memory is that of one block."""


class GANConfig(OnPolicyConfig):
    """Direct adversarial training: the discriminator's gradient through the decoder and the last denoising step."""

    kind: Literal["gan"] = "gan"
    old_decay: float = Field(0.0, ge=0, lt=1)
    """Largest decay of the old policy; 0: rollouts are always the current student's."""


class PolicyGradientConfig(OnPolicyConfig):
    """Reverse-chain policy gradient: clipped likelihood ratios of the sampler's re-noising steps (GRPO)."""

    kind: Literal["grpo"] = "grpo"
    limit: float = Field(5.0, gt=0)
    """Advantage clip."""
    scope: Literal["group", "batch"] = "group"
    """Where the advantage's standard deviation is taken."""
    ratio_clip: float = Field(0.2, gt=0, lt=1)
    """Likelihood ratios are clipped to 1 +- this."""


class ScoreMatchingConfig(OnPolicyConfig):
    """Distribution matching: a score of the teacher's clips against a score of own rollouts (DMD), no discriminator."""

    kind: Literal["dmd"] = "dmd"
    old_decay: float = Field(0.0, ge=0, lt=1)
    """Largest decay of the old policy; 0: rollouts are always the current student's."""
    rerender: bool = True
    """Fit the teacher's score to clips drawn again by the start student (needs discriminator.rerender)."""
    score_lr: float = Field(4e-4, gt=0)
    """AdamW learning rate of both scores."""
    score_warmup: int = Field(60, ge=0)
    """Steps of both scores before the student moves."""
    score_steps: int = Field(2, ge=1)
    """Steps of both scores per student update."""


class InputGradientConfig(OnPolicyConfig):
    """Experimental: move each rollout a small step along the discriminator's input gradient and regress to it."""

    kind: Literal["input-gradient"] = "input-gradient"
    reach: float = Field(0.1, gt=0)
    """Length of that step: RMS over the clip, in latents of unit variance."""
    levels: Literal["sampler", "continuous"] = "sampler"
    """Noise levels of the update."""
    space: Literal["x0", "velocity"] = "x0"
    """Space of the loss."""


class TiltConfig(OnPolicyConfig):
    """Experimental: a prompt's rollouts all move along one direction, the covariance of clips and rewards (DiffusionART)."""

    kind: Literal["tilt"] = "tilt"
    gain: float = Field(1.0, gt=0)
    """How far along it: in covariances of the latents with rewards of unit variance."""
    scope: Literal["group", "batch"] = "group"
    """Where the rewards' standard deviation is taken."""
    space: Literal["x0", "velocity"] = "x0"
    """Space of the loss."""


class SFTConfig(Section):
    """Supervised fine-tuning on the teacher's clips: the baseline."""

    kind: Literal["sft"] = "sft"
    levels: Literal["sampler", "continuous"] = "sampler"
    """Noise levels of the update."""
    rerender: bool = False
    """Train on clips drawn again by the start student (needs discriminator.rerender)."""
    redraws: int = Field(1, ge=1, le=256)
    """Times each clip is drawn again, each with noise of its own."""
    masked_blocks: int = Field(0, ge=0)
    """First blocks left out of the loss."""
    group: int = Field(8, ge=1)
    """Clips per prompt of the batch; as an arm of a comparison it takes the main objective's."""


ObjectiveConfig = Annotated[
    AFDConfig | SFTConfig | GANConfig | PolicyGradientConfig | ScoreMatchingConfig | InputGradientConfig | TiltConfig,
    Field(discriminator="kind"),
]


class TrainConfig(Section):
    """Optimisation of the student."""

    steps: int = Field(60, ge=1)
    """Student updates."""
    prompts: int = Field(8, ge=1)
    """Prompts P per update; a batch is P times the group."""
    lr: float = Field(4e-4, gt=0)
    """AdamW learning rate."""
    warmup: int = Field(10, ge=0)
    """Updates of linear learning-rate warm-up."""
    decay: float = Field(0.3, ge=0, le=1)
    """Share of the updates over which the learning rate falls to zero."""
    weight_decay: float = Field(1e-4, ge=0)
    """AdamW weight decay."""
    clip: float = Field(1.0, gt=0)
    """Gradient norm limit."""
    ema: float = Field(0.97, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated and shipped."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches per update."""
    bf16: bool = False
    """bfloat16 autocast (GPUs)."""
    checkpoint_every: int = Field(20, ge=1)
    """Steps between checkpoints."""


class EvaluationConfig(Section):
    """Evaluation on held-out prompts."""

    prompts: int = Field(36, ge=1)
    """Held-out prompts."""
    rollouts: int = Field(8, ge=2)
    """Student clips per prompt."""
    reference: int = Field(8, ge=2)
    """Teacher clips per held-out prompt that students are compared with."""
    floor: int = Field(4, ge=2)
    """Further teacher clips per held-out prompt, measured as if they were a student's: the floor."""
    shown: int = Field(4, ge=1)
    """Prompts whose clips the report plays."""


class CompareConfig(Section):
    """Another arm trained from the same start with the same number of updates, shown in the report."""

    objective: ObjectiveConfig
    lr: float | None = Field(None, gt=0)
    """Learning rate; null: the run's."""


class RunConfig(Section):
    """A whole run."""

    name: str = "run"
    """Shown in the report."""
    out: Path = Path("runs/run")
    """Run folder."""
    seed: int = Field(0, ge=0)
    """Decides every random draw of training."""
    threads: int = Field(1, ge=0)
    """Torch threads; 0 leaves the choice to torch. Two threads on busy cores can be ten times slower than one."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1."""
    teacher: Annotated[
        WorldTeacherConfig | FolderTeacherConfig | ApiTeacherConfig | ComfyTeacherConfig | DiffusersTeacherConfig,
        Field(discriminator="kind"),
    ] = WorldTeacherConfig()
    prompts: Annotated[WorldPromptsConfig | FilePromptsConfig, Field(discriminator="kind")] = WorldPromptsConfig()
    clips: ClipsConfig = ClipsConfig()
    collection: CollectionConfig = CollectionConfig()
    student: StudentConfig = StudentConfig()
    discriminator: Annotated[DiscriminatorConfig | VideoRewardConfig, Field(discriminator="kind")] = (
        DiscriminatorConfig()
    )
    objective: ObjectiveConfig = AFDConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compare: dict[str, CompareConfig] = Field({})
    """Other arms, by name."""
