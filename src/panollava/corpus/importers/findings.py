"""What an import finds in a source: samples to import, samples that the layout's rules leave out, and bad samples.

Every sample is counted once, so that read = imported + left out. `unit` names a sample: a row, an annotation.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from panollava.corpus.problems import printable, shorten

SHOWN = 5
# If so many samples are read and all are bad, the file has another layout, and the rest is not read.
MOST_BAD = 100_000
LINE_CHARACTERS = 400


class BadSample(ValueError):
    """A sample that cannot be imported; `kind` is the same for samples of one fault."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def misfit(error: ValidationError) -> BadSample:
    """Return the first error of a sample that does not have its shape, with the number of the others."""
    # Of a default that another error made impossible, pydantic reports a second error.
    items = [
        item
        for item in error.errors(include_url=False, include_context=False)
        if item["type"] != "default_factory_not_called"
    ]
    first = items[0]
    field_path = ".".join(map(str, first["loc"]))
    names = ".".join(part for part in first["loc"] if isinstance(part, str))
    more = f" (and {len(items) - 1} more problems)" if len(items) > 1 else ""
    if first["type"] == "missing":
        return BadSample(f"no {names}", f"{field_path} is missing{more}")
    reason = first["msg"].removeprefix("Value error, ")
    return BadSample(f"a bad {names}", f"{field_path}: got {shorten(first['input'])}: {reason}{more}")


def _line(text: str) -> str:
    """Return a text as one line of a message: printable, a long one cut."""
    return printable(text[:LINE_CHARACTERS] + ("…" if len(text) > LINE_CHARACTERS else ""))


def listed(problems: Sequence[str], count: int | None = None) -> list[str]:
    """Return the first problems, a line each, and the number of those that are not shown."""
    hidden = (len(problems) if count is None else count) - SHOWN
    return [*map(_line, problems[:SHOWN]), *([f"... and {hidden} more"] if hidden > 0 else [])]


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raise one ValueError that counts the problems and lists the first five; do nothing if there are none."""
    if problems:
        raise ValueError("\n".join([f"{len(problems)} {what}:", *listed(problems)]))


@dataclass
class Findings:
    """The counts of an import, and where its bad samples are.

    `left_out` and `bad` count samples by reason, `besides` what else is left out: parts of samples, images, files.
    `changed` counts what is imported otherwise than published.
    """

    unit: str
    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    besides: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def reject(self, where: str, error: BadSample, samples: int = 1) -> None:
        """Count a bad sample, and remember its place if it is one of the first of its kind.

        A record that carries no sample of its own, as the questions behind the first one of an image, counts besides.

        Raises:
            ValueError: all of very many samples are bad.
        """
        reason = f"{self.unit} with {error.kind}"
        self.bad[reason] += samples
        if not samples:
            self.besides[f"records with {error.kind}"] += 1
        self._remember(reason, f"{where}: {error}")
        if self.read >= MOST_BAD and self.bad.total() >= self.read:
            raise ValueError("\n".join([*self.problems(), "no sample can be imported, so the rest was not read"]))

    def leave_out(self, where: str, reason: str, samples: int = 1) -> None:
        """Count a sample that the layout's rules leave out, and remember its place."""
        self.left_out[f"{self.unit} {reason}"] += samples
        self._remember(f"{self.unit} {reason}", where)

    def _remember(self, reason: str, text: str) -> None:
        if len(self.places[reason]) < SHOWN:
            self.places[reason].append(text)

    def problems(self) -> list[str]:
        """Return the lines of a message about the bad samples, none if there are none."""
        if not self.bad:
            return []
        lines = [
            f"{self.bad.total()} of {self.read} {self.unit} cannot be imported; --drop-bad-records leaves them out:"
        ]
        return [*lines, *(line for reason in self.bad for line in self._reason(reason, self.bad[reason], ""))]

    def _reason(self, reason: str, count: int, prefix: str) -> Iterable[str]:
        yield f"{prefix}{count} {printable(reason)}" + (":" if self.places.get(reason) else "")
        yield from (f"  {line}" for line in listed(self.places.get(reason, []), count))

    def counts(self) -> Counter[str]:
        """Return all counts of what is left out, by reason."""
        return self.left_out + self.bad + self.besides  # a sum of counters holds no zeros

    def report(self, imported: int) -> list[str]:
        """Return the lines of the report: the sum, and what was left out."""
        missing = self.left_out + self.bad
        lines = [f"read: {self.read} {self.unit}, imported: {imported}, left out: {missing.total()}"]
        for reason, count in missing.items():
            lines += self._reason(reason, count, "left out: ")
        lines += [f"also left out: {count} {printable(what)}" for what, count in (+self.besides).items()]
        lines += [] if self.counts() else ["left out: nothing"]
        return lines + [f"changed: {count} {printable(what)}" for what, count in (+self.changed).items()]
