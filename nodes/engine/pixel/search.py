"""Finds the grid of a batch: one pitch and one native size for all its pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cells import CellLines, central_taps, tap_deviation
from .chains import Chain, follow_chains
from .colour import Floats
from .edges import Strips, cell_votes, edge_profiles, picture_strips
from .lines import SURE, continue_lines, line_evidence, place_lines, refine_pitch, settle_lines, track_lines
from .pitch import candidate_pitches, pitch_spectrum

MIN_PITCH_PX = 3.5
_MIN_CELLS = 12
# Pictures of a batch that are looked at to choose between candidates; all of them vote in the spectrum.
_JUDGES = 3
# Sum over the channels of a step that noise and ringing make between cells of one colour.
_FAINT_STEP = 24.0
# Cells by which lines that were followed may miss a typed size, which they then go on to.
_MISCOUNT = 1.5
# Pitches near the first estimate that are tried, as shares of it.
_FACTORS = (0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06)

# One picture's lines between columns and between rows.
ChainPair = tuple[Chain, Chain]


@dataclass(frozen=True)
class Track:
    """One picture followed at one pitch: lines and evidence between columns and between rows."""

    lines: tuple[NDArray[np.intp], NDArray[np.intp]]
    evidence: tuple[Floats, Floats]

    def sure(self, axis: int) -> NDArray[np.intp]:
        """Return the lines of an axis that have evidence."""
        return self.lines[axis][self.evidence[axis][self.lines[axis]] > SURE]


@dataclass(frozen=True)
class FoundGrid:
    """A grid for every picture; `concentration` is how well edges share a phase."""

    width: int
    height: int
    pitch: float
    lines: tuple[CellLines, ...]
    concentration: float


@dataclass(frozen=True)
class _Candidate:
    pitch: float
    tracks: list[Track]
    concentration: float
    drawn: float
    score: float


def follow(profiles: list[tuple[Floats, Floats]], pitch: float) -> list[Track]:
    """Track the lines of pictures of one size at a pitch."""
    evidence = [[line_evidence(pair[axis], pitch) for pair in profiles] for axis in (0, 1)]
    if len(evidence[0][0]) == len(evidence[1][0]):
        both = track_lines(np.stack(evidence[0] + evidence[1]), pitch)
        lines = (both[: len(profiles)], both[len(profiles) :])
    else:
        lines = (track_lines(np.stack(evidence[0]), pitch), track_lines(np.stack(evidence[1]), pitch))
    return [Track((lines[0][i], lines[1][i]), (evidence[0][i], evidence[1][i])) for i in range(len(profiles))]


def joint_pitch(tracks: list[Track], pitch: float) -> float:
    """Return the pitch that all axes of all pictures agree on, each weighted by how well it fixes it."""
    estimates = [refine_pitch(track.lines[axis], track.evidence[axis], pitch) for track in tracks for axis in (0, 1)]
    values, weights = np.array([value for value, _ in estimates]), np.array([weight for _, weight in estimates])
    usable = (np.abs(values / pitch - 1) < 0.06) & (weights > 0)
    return float(np.average(values[usable], weights=weights[usable])) if usable.any() else pitch


def cell_count(chains: list[ChainPair], pitch: float, size: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) in cells, which are square, of pictures of (width, height) px.

    Counted along the followed lines, which keeps the number right where a slow drift bends the mean pitch. Where little of the picture
    shows lines, several counts fit; then one whose cells fill the picture, and a size that people draw at, is the likelier.
    """
    longer = max(size)
    counts: list[float] = []
    weights: list[float] = []
    residues: list[float] = []
    for pair in chains:
        for axis in (0, 1):
            index = np.flatnonzero(pair[axis].seen)
            if len(index) < 4:
                continue
            sure = pair[axis].lines[index]
            slope, offset = np.polyfit(index, sure, 1)
            ends = (size[axis] - (sure[-1] - sure[0])) / pitch
            counts.append((index[-1] - index[0] + ends) * longer / size[axis])
            weights.append(((index[-1] - index[0]) * pitch / size[axis]) ** 2)
            residues.append(float(np.std(sure - slope * index - offset)) / pitch)
    middle = float(np.average(counts, weights=weights)) if counts else longer / pitch
    covered = max(weights, default=0.01) ** 0.5
    # lines that stray from an even grid within the sprite do so on its whole width
    sigma = (2.2 * float(np.mean(residues)) if residues else 0.25) / covered + 0.1

    def cost(count: int) -> float:
        cell = longer / count
        lines = np.concatenate([pair[axis].lines[pair[axis].seen] / cell for pair in chains for axis in (0, 1)])
        misfit = float(np.abs(lines - np.rint(lines)).mean()) if len(lines) else 0.25
        return (count - middle) ** 2 / (2 * sigma**2) + 8 * misfit + _unusual(count)

    reach = int(np.ceil(2 * sigma)) + 1
    count = min(range(max(1, round(middle) - reach), round(middle) + reach + 1), key=cost)
    exact = longer / count
    return max(1, round(size[0] / exact)), max(1, round(size[1] / exact))


def _unusual(count: int) -> float:
    """Return how much less likely than a multiple of eight a native size is, as a logarithm."""
    return 0.0 if count % 8 == 0 else 0.7 if count % 4 == 0 else 1.2 if count % 2 == 0 else 1.5


def _misfit_share(profiles: list[tuple[Floats, Floats]], pitch: float) -> float:
    """Return the share of cells, the worst ones, by which a pitch is judged: 3 %, and less where little of a picture has edges."""
    density = np.mean([pair[axis].sum() * pitch / len(pair[axis]) for pair in profiles for axis in (0, 1)])
    return float(np.clip(0.25 * density, 0.002, 0.03))


def _place(track: Track, pitch: float, count: tuple[int, int]) -> CellLines:
    return CellLines(*(place_lines(track.sure(axis), track.evidence[axis], pitch, count[axis]) for axis in (0, 1)))


def _settled(strips: Strips, lines: CellLines, pitches: tuple[float, float]) -> CellLines:
    """Return lines moved to where the cells between the lines of the other axis change colour; pitches of columns and rows."""
    votes = cell_votes(strips, lines.columns, lines.rows, min(pitches))
    return CellLines(settle_lines(lines.columns, votes[0], pitches[0]), settle_lines(lines.rows, votes[1], pitches[1]))


def _follow_cells(strips: list[Strips], lines: list[CellLines], pitch: float, judges: NDArray[np.intp]) -> list[ChainPair]:
    """Follow each picture's lines anew through votes of the cells between rough `lines`, at the pitch that fits the judges best."""
    votes = [cell_votes(part, at.columns, at.rows, pitch) for part, at in zip(strips, lines, strict=True)]
    judged = follow_chains([part for index in judges for part in votes[index]], pitch, _FACTORS)
    best = int(np.argmax([sum(chain.fit for chain in chains) for chains in judged]))
    (followed,) = follow_chains([part for pair in votes for part in pair], pitch, (_FACTORS[best],))
    return list(zip(followed[::2], followed[1::2], strict=True))


def _continued(chain: Chain, count: int, size: int) -> Floats:
    """Return `count` + 1 lines: those of the chain from the first to the last seen one, gone on with evenly."""
    seen = np.flatnonzero(chain.seen)
    lines = chain.lines[seen[0] : seen[-1] + 1] if len(seen) else chain.lines
    return continue_lines(lines, size / count, count, size)


def _chains_pitch(chains: list[ChainPair], pitch: float) -> float:
    """Return the pitch of all chains, each weighted by how well it fixes it, or the given one where nothing is seen."""
    estimates = [chain.pitch() for pair in chains for chain in pair]
    values, weights = np.array([value for value, _ in estimates]), np.array([weight for _, weight in estimates])
    return float(np.average(values, weights=weights)) if weights.any() else pitch


def _judge(
    pictures: NDArray[np.floating], profiles: list[tuple[Floats, Floats]], pitch: float, concentration: float
) -> _Candidate:
    tracks = follow(profiles, pitch)
    refined = joint_pitch(tracks, pitch)
    height, width = pictures.shape[1:3]
    count = (max(1, round(width / refined)), max(1, round(height / refined)))
    lines = [_place(track, refined, count) for track in tracks]
    quantile = 1 - _misfit_share(profiles, pitch)
    taps = [central_taps(picture, at) for picture, at in zip(pictures, lines, strict=True)]
    deviation = float(np.mean([np.quantile(tap_deviation(picture_taps), quantile) for picture_taps in taps]))
    drawn = float(np.mean([_all_lines_drawn(picture_taps.mean(axis=0)) for picture_taps in taps]))
    # Of a pitch and its fraction that explain the picture alike, the larger one is the drawing's.
    score = drawn**2 * concentration**1.5 / (deviation + 8.0) * pitch**0.3
    return _Candidate(refined, tracks, concentration, drawn, score)


def _all_lines_drawn(cells: Floats) -> float:
    """Return 1 where cells (h, w, 3) differ across all lines alike, towards 0 where they hardly do across every second or third.

    A decoder leaves faint steps inside the cells, at the grids of its inner layers: edge votes take those for lines of a half pitch,
    but the colours on both sides are the same.
    """
    drawn = 1.0
    # brick walls and checks that lie on every third line are drawn; those on every second line are doubled pixels
    for period, enough in ((2, 0.6), (3, 0.25)):
        lowest = []
        for axis in (0, 1):
            steps = np.abs(np.diff(cells, axis=axis)).sum(axis=-1)
            by_line = np.clip(steps - _FAINT_STEP, 0, 5 * _FAINT_STEP).sum(axis=1 - axis)
            if len(by_line) < period:
                return 1.0
            by_class = np.array([by_line[start::period].mean() for start in range(period)])
            lowest.append(by_class.min() / max(by_class.mean(), 1e-6))
        drawn *= float(np.clip(np.mean(lowest) / enough, 0.05, 1.0))
    return drawn


def find_grid(pictures: NDArray[np.floating]) -> FoundGrid | None:
    """Find the grid of pictures (B, H, W, 3), sRGB 0..255; None where nothing repeats."""
    height, width = pictures.shape[1:3]
    strips = [picture_strips(picture) for picture in pictures]
    profiles = [edge_profiles(part) for part in strips]
    shorter = min(width, height)
    if shorter / _MIN_CELLS <= MIN_PITCH_PX or not any(profile.any() for pair in profiles for profile in pair):
        return None
    pitches, concentration = pitch_spectrum(
        [profile for pair in profiles for profile in pair], MIN_PITCH_PX, shorter / _MIN_CELLS
    )
    judges = np.unique(np.linspace(0, len(pictures) - 1, _JUDGES).round().astype(int))
    seen = (pictures[judges], [profiles[i] for i in judges])
    judged = [_judge(*seen, pitch, strength) for pitch, strength in candidate_pitches(pitches, concentration)]
    if not judged:
        return None
    chosen = max(judged, key=lambda candidate: candidate.score)
    if chosen.drawn < 1 and 2 * chosen.pitch <= shorter / _MIN_CELLS:
        # faint lines vote like drawn ones: they may have hidden the spacing of the drawn ones from the spectrum
        chosen = max(chosen, _judge(*seen, 2 * chosen.pitch, chosen.concentration), key=lambda candidate: candidate.score)
    tracks = chosen.tracks if len(judges) == len(pictures) else follow(profiles, chosen.pitch)
    pitch = joint_pitch(tracks, chosen.pitch)
    count = (max(1, round(width / pitch)), max(1, round(height / pitch)))
    rough = [_place(track, pitch, count) for track in tracks]
    chains = _follow_cells(strips, rough, pitch, judges)
    pitch = _chains_pitch(chains, pitch)
    count = cell_count(chains, pitch, (width, height))
    placed = [CellLines(*(_continued(pair[axis], count[axis], (width, height)[axis]) for axis in (0, 1))) for pair in chains]
    lines = tuple(_settled(part, at, (pitch, pitch)) for part, at in zip(strips, placed, strict=True))
    strength = float(np.interp(pitch, pitches[::-1], concentration[::-1]))
    # lines that hardly part colours weaken the drawn ones in the spectrum of their own pitch, but agree with them at half of it
    faint = [candidate for candidate in judged if candidate.drawn < 1 and abs(chosen.pitch / candidate.pitch - 2) < 0.05]
    strength = max([strength, *(candidate.concentration for candidate in faint)])
    return FoundGrid(*count, pitch, lines, strength)


def fit_grid(pictures: NDArray[np.floating], count: tuple[int, int]) -> FoundGrid:
    """Fit exactly (width, height) cells to pictures (B, H, W, 3), along the lines that the drawings show."""
    height, width = pictures.shape[1:3]
    pitches = (width / count[0], height / count[1])
    lines = []
    for picture in pictures:
        strips, placed = picture_strips(picture), []
        for axis, profile in enumerate(edge_profiles(strips)):
            evidence = line_evidence(profile, pitches[axis])
            (tracked,) = track_lines(evidence[None], pitches[axis])
            sure = tracked[evidence[tracked] > SURE]
            placed.append(place_lines(sure, evidence, pitches[axis], count[axis], whole=True))
        lines.append(_settled(strips, _fitted(strips, CellLines(*placed), pitches, count), pitches))
    return FoundGrid(*count, (pitches[0] * pitches[1]) ** 0.5, tuple(lines), 1.0)


def _fitted(strips: Strips, rough: CellLines, pitches: tuple[float, float], count: tuple[int, int]) -> CellLines:
    """Return the lines followed anew through votes of the cells between `rough` ones, unless those are not as many as `count`."""
    fitted = []
    votes = cell_votes(strips, rough.columns, rough.rows, min(pitches))
    for part, lines, pitch, cells in zip(votes, (rough.columns, rough.rows), pitches, count, strict=True):
        ((chain,),) = follow_chains([part], pitch)
        size = len(part) - 1
        inside = len(chain.lines) - 1 + (chain.lines[0] + size - chain.lines[-1]) / pitch
        fitted.append(continue_lines(chain.lines, pitch, cells, size) if abs(inside - cells) < _MISCOUNT else lines)
    return CellLines(*fitted)
