"""Figures as short text: how a number, a share or an architecture is written on a page. It knows no HTML."""

from offramp.ir.trial import Trial

MARK = "made by Offramp"
"""Stands near the beginning of every file that this room writes."""


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, thousands set apart, without an exponent where that can be read."""
    if value == 0:
        return "0"
    if abs(value) >= 10**digits / 10:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.{digits - 1}e}"


def percent(fraction: float, decimals: int = 2) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.{decimals}f} %"


UNITS = {"energy_uj": "µJ", "latency_ms": "ms", "worst_latency_ms": "ms", "worst_energy_uj": "µJ", "edp": "µJ·ms"}


def quantity(name: str, value: float) -> str:
    """The value of a field of `Metrics` with its unit."""
    if name == "macs":
        return f"{significant(value / 1e6)} M"
    if name == "peak_bytes":
        return f"{significant(value / 1024)} KiB"
    return f"{significant(value)} {UNITS[name]}"


def change(value: float, reference: float) -> str:
    """By how many percent a value differs from its reference."""
    if not reference:
        return "–"
    whole = round(100 * (value / reference - 1))
    return f"{whole:+d} %".replace("-", "−") if whole else "±0 %"


def exits_of(trial: Trial) -> list[str]:
    """A name per exit: early ones by block and branch kind, then `final`."""
    return [f"after block {e.mounting_point} ({e.branch})" for e in trial.architecture.exits] + ["final"]


def exits_short(trial: Trial) -> str:
    """Mounting points in a few characters."""
    return ", ".join(str(e.mounting_point) for e in trial.architecture.exits) or "none"


def bits_short(trial: Trial) -> str:
    """Weight bits and on how many layers, widest first."""
    weights = [weight for _, (weight, _) in trial.bits]
    return ", ".join(f"{b}\u00a0×\u00a0{weights.count(b)}" for b in sorted(set(weights), reverse=True)) or "–"


def cores_short(trial: Trial) -> str:
    """Cores and how many layers each runs."""
    cores = [core for _, core in trial.cores]
    return ", ".join(f"{c}\u00a0×\u00a0{cores.count(c)}" for c in dict.fromkeys(cores)) or "–"
