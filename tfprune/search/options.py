"""What is asked of the reward of a sub-network."""
import dataclasses

from tfprune.config import COUNT_OR_NONE, IMAGES_OR_AUTO, Part, field_of


@dataclasses.dataclass(frozen=True)
class ScoringOptions(Part):
    """On which examples, held out from training, the reward of a sub-network is measured."""
    reward_images: int = field_of(
        0,
        'This many training images are held out to measure rewards; 0 takes a tenth of them, up '
        'to 5,000.', IMAGES_OR_AUTO)
    score_images: int = field_of(
        0, 'This many of the held-out examples score an episode; 0 takes all of them, up to 1,000.',
        IMAGES_OR_AUTO)
    score_batch_size: int = field_of(
        0, 'Scoring takes this many examples a step; 0 takes up to 500.', COUNT_OR_NONE)

    def check(self) -> None:
        super().check()
        if self.reward_images:
            self.require('score_images', self.score_images <= self.reward_images,
                         f'at most --reward_images={self.reward_images}')
        if self.score_images and self.score_batch_size:
            self.require('score_images', self.score_images % self.score_batch_size == 0,
                         f'a multiple of --score_batch_size={self.score_batch_size}')

    @property
    def score_batches(self) -> int:
        """Steps of a score, of sizes that are filled in."""
        return self.score_images // self.score_batch_size

    def sized(self, reward_images: int) -> 'ScoringOptions':
        """The same with sizes filled in, for that many held-out images.

        ValueError if a size that is given does not fit.
        """
        batch = self.score_batch_size or min(500, self.score_images or reward_images)
        images = self.score_images or min(1000, reward_images) // batch * batch
        if not self.score_batch_size:
            even = next(size for size in range(batch, 0, -1) if images % size == 0)
            # A batch is normalized by its own statistics: none of a few images.
            batch, images = (even, images) if 4 * even > batch else (batch, images // batch * batch)
        return dataclasses.replace(self, reward_images=reward_images, score_images=images or batch,
                                   score_batch_size=batch)
