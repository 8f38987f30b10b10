# SPDX-License-Identifier: GPL-2.0-or-later
"""Did the loop close? Decided from the record alone."""

from dataclasses import dataclass

from .record import Recording

CLOCKS_AGREE = 2.0
"""Seconds within which the tracer's and the device's word of one message must lie; the guest's
clock runs by itself."""


@dataclass(frozen=True)
class Verdict:
    """What was shown, each with the sentence that says how."""

    inflated: str | None
    """Host pressure that led to an inflation; None: not seen."""
    deflated: str | None
    """A guest's message that led to a deflation; None: not seen."""

    @property
    def success(self) -> bool:
        return self.inflated is not None and self.deflated is not None


def judge(record: Recording) -> Verdict:
    """Look for both halves of the loop in the record."""
    return Verdict(_inflation(record), _deflation(record))


def _inflation(record: Recording) -> str | None:
    """Host pressure, then a decision for it, then the guest's smaller size."""
    pressed: float | None = None
    for event in record.journal:
        if event["event"] == "host-pressure" and pressed is None:
            pressed = event["time"]
        elif (event["event"] == "decision" and event["reason"] == "host-pressure"
              and pressed is not None and event["new"] < event["old"]):
            for later in record.events("actual", event["guest"]):
                if later["time"] > event["time"] and later["actual"] < event["old"]:
                    at = pressed - record.start
                    return (f"host pressure at {at:.1f} s: guest {event['guest']} was asked to "
                            f"shrink and did {later['time'] - event['time']:.2f} s later")
    return None


def _deflation(record: Recording) -> str | None:
    """A message seen in the guest and by the device, then a decision, then a larger size."""
    for event in record.events("decision"):
        if event["reason"] != "guest-pressure" or event["new"] <= event["old"]:
            continue
        guest, when = event["guest"], event["time"]
        told = [m["time"] for m in record.events("guest-message", guest) if m["time"] <= when]
        if not told:
            continue
        traced = [m for m in record.messages
                  if m.guest == guest and abs(m.time - told[-1]) < CLOCKS_AGREE]
        grown = [a for a in record.events("actual", guest)
                 if a["time"] > when and a["actual"] > event["old"]]
        if traced and grown:
            return (f"guest {guest}'s message at {told[-1] - record.start:.1f} s, seen by the "
                    f"tracer and the device: asked to grow {1000 * (when - told[-1]):.1f} ms "
                    f"later, and did {grown[0]['time'] - when:.2f} s after that")
    return None
