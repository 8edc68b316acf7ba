"""What objectives are built from."""

from dataclasses import dataclass

from understudy.objectives.adversary import Adversary
from understudy.objectives.averages import Averages
from understudy.objectives.config import OnPolicyConfig
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Groups
from understudy.objectives.update import Update
from understudy.objectives.verdict import Verdict
from understudy.recipe.config import RunConfig, TrainConfig
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
        again = self.rerender if self.run.discriminator.rerender_own else None
        return Groups(config, self.train, self.data, self.start.codec, self.start.levels, again)

    def adversary(self) -> Adversary:
        """Return the discriminator that learns along."""
        judge, start = self.run.discriminator, self.start
        return Adversary(judge, self.data, start.codec, self.rerender, self.run.seed, start.form.fps)

    def on_policy(self, config: OnPolicyConfig, verdict: Verdict, update: Update) -> OnPolicy:
        """Return the objective on own rollouts with this verdict and update."""
        averages = Averages(config, self.train, self.run.seed, self.run.student.lora)
        return OnPolicy(self.groups(config), verdict, update, averages, self.train)
