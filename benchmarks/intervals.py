"""How often the verdict's intervals hold the truth, how wide they are, and how often its words are wrong: simulated.

Two kinds of study. In the first, mean squares are drawn from their chi-square laws, as documents and seeds with normal
noise give them, and go through `comparison.standard_error`. In the second, documents are of uneven length and their
losses skewed and heavy-tailed, and everything goes through `comparison.compare_arms`.

    python benchmarks/intervals.py --runs 20000 --write docs/intervals.md
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import page
import scipy
from scipy import special, stats

from polygraft.scoring.comparison import ArmScores, compare_arms, standard_error
from polygraft.scoring.metrics import LOSS

HEADING = "How often the verdict's intervals hold the truth"
SEEDS, DOCUMENTS = (3, 5, 10), (30, 100, 300, 1000)
NOISE = {"none": 0.0, "small": 0.25, "large": 0.9}  # the seeds' part of the difference's variance
INTERACTION = {"none": 0.0, "half": 0.5, "all": 1.0}  # of the rest: noise of one seed on one document
WIDEST = {2: {3: 1.6, 5: 1.25, 10: 1.1}, 1: {3: 2.0, 5: 1.4, 10: 1.15}}  # what was wished for, by arms with seeds
COVERAGE = 0.94, 0.97
MARGIN = 6.0  # true standard errors: "equivalent" is then said of most arms without a difference


@dataclass(frozen=True)
class Regime:
    """A kind of study, scaled such that the difference of the arms has variance 1. `arms` with seeds: 2, or 1."""

    arms: int
    seeds: int
    documents: int
    noise: str
    interaction: str

    @property
    def by_seed(self) -> float:
        """Variance of an arm's seeds."""
        return NOISE[self.noise] * self.seeds / self.arms

    @property
    def by_both(self) -> float:
        """Variance of one seed on one document."""
        return (1 - NOISE[self.noise]) * INTERACTION[self.interaction] * self.seeds * self.documents / self.arms

    @property
    def by_document(self) -> float:
        """Variance over documents of what the arms differ by."""
        return (1 - NOISE[self.noise]) * (1 - INTERACTION[self.interaction]) * self.documents


@dataclass(frozen=True)
class Found:
    """Shares of the runs, and the mean width over that of an oracle who knows the variances."""

    coverage: float
    width: float
    alarms: float = 0.0
    wrong_equivalents: float = 0.0
    right_equivalents: float = 0.0


def regimes(documents: tuple[int, ...]) -> Iterator[Regime]:
    for choice in itertools.product((2, 1), SEEDS, documents, NOISE, INTERACTION):
        yield Regime(*choice)


def drawn(regime: Regime, runs: int, rng: np.random.Generator) -> Found:
    """Studies with normal noise: their mean squares are chi-square variables, and independent."""
    seeds, documents, arms = regime.seeds, regime.documents, regime.arms

    def mean_square(variance: float, freedom: int, *shape: int) -> np.ndarray:
        return variance * rng.chisquare(freedom, (*shape, runs)) / freedom

    by_documents = mean_square((regime.by_document + arms * regime.by_both / seeds) / documents, documents - 1)
    by_seeds = mean_square((regime.by_seed + regime.by_both / documents) / seeds, seeds - 1, arms)
    shared = mean_square(regime.by_both / documents / seeds, (seeds - 1) * (documents - 1), arms).sum(axis=0)
    error, freedom = standard_error(by_documents, by_seeds, shared, documents - 1, [seeds - 1] * arms)
    half = special.stdtrit(freedom, 0.975) * error
    return Found(float((abs(rng.normal(size=runs)) <= half).mean()), float(half.mean()) / special.ndtri(0.975))


def studied(regime: Regime, runs: int, rng: np.random.Generator) -> Found:
    """Whole studies: gamma-distributed losses (skewness 1.15 over documents) and lengths, t-distributed noise of one
    seed on one document (5 degrees of freedom), and of seeds normal noise."""
    covered = alarms = wrong = right = 0
    width = 0.0
    for _ in range(runs):
        tokens_D = rng.gamma(2.0, 8.0, regime.documents).round() + 4
        # a ratio weighs documents by their length, so that uneven ones are worth fewer equal ones
        worth = tokens_D.sum() ** 2 / (tokens_D**2).sum() / regime.documents
        hard_D = 4 * rng.gamma(3.0, 1 / 3.0, regime.documents)
        own_D = (rng.gamma(3.0, 1 / 3.0, regime.documents) - 1) * (3 * regime.by_document * worth) ** 0.5

        def arm(means_D: np.ndarray, tokens_D: np.ndarray, worth: float) -> ArmScores:
            shape = regime.seeds, regime.documents
            noise_SD = rng.standard_t(5, shape) * (0.6 * regime.by_both * worth) ** 0.5
            noise_SD += rng.normal(0, regime.by_seed**0.5, (regime.seeds, 1))
            return ArmScores.of([np.stack([(means_D + one) * tokens_D, tokens_D], axis=1) for one in noise_SD], LOSS)

        treatment, control = arm(hard_D + own_D, tokens_D, worth), arm(hard_D, tokens_D, worth)
        found = compare_arms(treatment, control, margin=1e-9)
        covered += found.low <= 0 <= found.high
        alarms += found.word in ("helped", "hurt")
        width += (found.high - found.low) / 2 / special.ndtri(0.975)
        right += compare_arms(treatment, control, margin=MARGIN).word == "equivalent"
        further = arm(hard_D + own_D + MARGIN, tokens_D, worth)
        wrong += compare_arms(further, control, margin=MARGIN).word == "equivalent"
    return Found(covered / runs, width / runs, alarms / runs, wrong / runs, right / runs)


def first_table(runs: int, rng: np.random.Generator) -> list[str]:
    found = {regime: drawn(regime, runs, rng) for regime in regimes(DOCUMENTS)}
    lines = [
        "| against | seeds | noise of seeds | coverage | mean width, × oracle | at most | wished for |",
        "|---|---|---|---|---|---|---|",
    ]
    for arms, seeds, noise in itertools.product((2, 1), SEEDS, NOISE):
        cells = [one for r, one in found.items() if (r.arms, r.seeds, r.noise) == (arms, seeds, noise)]
        covered, widths = [one.coverage for one in cells], [one.width for one in cells]
        against = "another arm" if arms == 2 else "a fixed control"
        lines.append(
            f"| {against} | {seeds} | {noise} | {min(covered):.1%} to {max(covered):.1%} | {np.mean(widths):.2f} | "
            f"{max(widths):.2f} | {WIDEST[arms][seeds]:g} |"
        )
    outside = [_name(r, one) for r, one in found.items() if not COVERAGE[0] <= one.coverage <= COVERAGE[1]]
    wider = [_name(r, one) for r, one in found.items() if one.width > WIDEST[r.arms][r.seeds]]
    alarms = {arms: 1 - min(one.coverage for r, one in found.items() if r.arms == arms) for arms in (2, 1)}
    lines += [
        "",
        f"Where there is no difference, the interval excludes 0 in at most {alarms[2]:.1%} against another arm, and "
        f"{alarms[1]:.1%} against a fixed\ncontrol, half of it on either side.",
        "",
        f"Outside 94 to 97%: {len(outside)} of {len(found)} regimes. Wider than wished for: {len(wider)}.",
    ]
    return [*lines, *[""] * bool(outside + wider), *dict.fromkeys(outside + wider)]


def _name(regime: Regime, found: Found) -> str:
    against = "another arm" if regime.arms == 2 else "a fixed control"
    return (
        f"- {regime.seeds} seeds, {regime.documents} documents, against {against}, noise of seeds {regime.noise}, "
        f"interaction {regime.interaction}: coverage {found.coverage:.2%}, width {found.width:.3f}"
    )


def second_table(runs: int, rng: np.random.Generator) -> list[str]:
    lines = [
        f"| seeds | documents | noise of seeds | coverage | mean width, × oracle | helped or hurt, at no difference | "
        f"equivalent, at the margin | equivalent, at no difference, margin {MARGIN:g} standard errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seeds, documents, noise in itertools.product(SEEDS, (30, 300), NOISE):
        one = studied(Regime(2, seeds, documents, noise, "half"), runs, rng)
        shares = " | ".join(
            f"{share:.1%} (< {_bound(share, runs):.1%})" for share in (one.alarms, one.wrong_equivalents)
        )
        lines.append(
            f"| {seeds} | {documents} | {noise} | {one.coverage:.1%} | {one.width:.2f} | {shares} | "
            f"{one.right_equivalents:.0%} |"
        )
    return lines


def _bound(share: float, runs: int) -> float:
    """The upper end of the exact 95% interval of a share (Clopper and Pearson 1934)."""
    return float(stats.binomtest(round(share * runs), runs).proportion_ci().high)


TEXT = """\
A verdict's 95% interval, in {runs:,} simulated studies of each of {regimes} regimes: 30, 100, 300 and 1,000 documents;
3, 5 and 10 seeds; against another arm with seeds of its own, or a fixed control such as the lead baseline; the seeds'
part of the difference's variance none, small (a quarter) or large (nine tenths); of the rest none, half or all noise of
one seed on one document (interaction). Normal noise. Each line has the range over documents and interaction. The oracle
knows the variances, and so uses 1.96 standard errors whatever the number of seeds. For comparison: where all noise is
the seeds', t with 2 (S - 1) degrees of freedom is 1.33, 1.14 and 1.06 times as wide as the oracle's (3, 5, 10 seeds),
and against a fixed control, with S - 1, 1.94, 1.33 and 1.12 times.

{first}

The same through the whole of `compare`, {whole:,} studies each: documents of uneven length, losses skewed and
heavy-tailed, half of the documents' noise interaction. Where the difference is 0, "helped" and "hurt" are wrong; where
it is the margin, "equivalent" is. In brackets the upper end of the share's exact 95% interval.

{second}

`python benchmarks/intervals.py --runs {whole}`; numpy {numpy}, scipy {scipy}."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000, help="of the second kind; of the first five times as many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help=f"a page whose section '{HEADING}' is replaced")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    first, second = first_table(5 * args.runs, rng), second_table(args.runs, rng)
    content = TEXT.format(
        runs=5 * args.runs, whole=args.runs, regimes=len(list(regimes(DOCUMENTS))), first="\n".join(first),
        second="\n".join(second), numpy=np.__version__, scipy=scipy.__version__,
    )  # fmt: skip
    print(content)
    if args.write:
        page.write_section(args.write, HEADING, content)


if __name__ == "__main__":
    main()
