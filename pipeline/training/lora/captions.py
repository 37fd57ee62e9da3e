"""What is said of a training picture: its caption in a template."""

from __future__ import annotations

from wanbatch.errors import UserError

CAPTION, TRIGGER = "{caption}", "{trigger}"


def check_template(template: str, trigger: str | None) -> None:
    """Refuse a template that would drop captions or a trigger.

    Raises:
        UserError: If it has no `{caption}`, or one of `{trigger}` and a trigger without the other.
    """
    if CAPTION not in template:
        raise UserError(f"the template {template!r} has no {CAPTION}: write where the caption goes")
    if TRIGGER in template and not trigger:
        raise UserError(f"the template {template!r} has {TRIGGER}, and there is no trigger word: give --trigger")
    if trigger and TRIGGER not in template:
        raise UserError(
            f"the trigger {trigger!r} is not in the template {template!r}: write {TRIGGER} where it goes, "
            f"such as '{TRIGGER} {CAPTION}'"
        )


def fill(template: str, caption: str, trigger: str | None) -> str:
    """A caption in its template."""
    return template.replace(CAPTION, caption).replace(TRIGGER, trigger or "")
