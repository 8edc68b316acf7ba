"""What objectives are built from."""

from dataclasses import dataclass

from understudy.errors import ConfigError
from understudy.objectives.adversary import Adversary
from understudy.objectives.averages import Averages
from understudy.objectives.config import OnPolicyConfig, ScoredConfig
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rewards import RewardVerdict
from understudy.objectives.rollouts import Groups
from understudy.objectives.update import Update
from understudy.objectives.verdict import RandomVerdict, Verdict
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.rewards.build import build_reward
from understudy.students.bundle import Bundle
from understudy.training.canonical import Rerender
from understudy.training.data import TeacherClips


@dataclass(frozen=True)
class Inputs:
    """A run's clips and start student, and the parts that kinds of objectives share.

    Attributes:
        run: the recipe. train: optimisation of this arm's student, which may differ from the recipe's.
        data: the teacher's clips. start: the start student with its codec and sampler.
    """

    run: RunConfig
    train: TrainConfig
    data: TeacherClips
    start: Bundle

    @property
    def rerender(self) -> Rerender:
        """What draws clips again as the recipe's discriminator wants them."""
        return Rerender(self.start.student, self.run.discriminator.rerender, self.start.levels)

    def groups(self, config: OnPolicyConfig) -> Groups:
        """Return what draws rollouts."""
        again = self.rerender if self.run.discriminator.rerender_own and config.judged_again else None
        return Groups(config, self.train, self.data, self.start.codec, self.start.levels, again)

    def adversary(self) -> Adversary:
        """Return the discriminator that learns along."""
        judge, start = self.run.discriminator, self.start
        return Adversary(judge, self.data, start.codec, self.rerender, self.run.seed, start.form.fps)

    def verdict(self, config: ScoredConfig) -> Verdict:
        """Return what scores rollouts.

        Raises:
            ConfigError: rewards alone are to score, but the recipe has none.
        """
        if config.reward == "random":
            return RandomVerdict()
        adversary = self.adversary() if config.judged else None
        if not self.run.rewards:
            if adversary is None:
                raise ConfigError("objective.reward is rewards, but the recipe has none: add one below rewards")
            return adversary
        rewards = {name: (section.weight, build_reward(section)) for name, section in self.run.rewards.items()}
        return RewardVerdict(rewards, self.start.codec, self.start.form.fps, adversary)

    def on_policy(self, config: OnPolicyConfig, verdict: Verdict, update: Update) -> OnPolicy:
        """Return the objective on own rollouts with this verdict and update."""
        averages = Averages(config, self.train, self.run.seed, self.run.student.lora)
        return OnPolicy(self.groups(config), verdict, update, averages, self.train)
