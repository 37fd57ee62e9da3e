"""`wanbatch completion`: the scripts that let a shell complete commands, flags and their values."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

PROGRAM = "wanbatch"
COMPLETERS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(COMPLETERS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete the commands, flags, samplers, presets, ... of wanbatch.

    Write it where the shell looks for such scripts, and start a new shell. Or, for this one shell of bash or zsh,
    eval "$(wanbatch completion bash)".

    \b
    Example:
      wanbatch completion bash > ~/.local/share/bash-completion/completions/wanbatch
      wanbatch completion zsh > ~/.zfunc/_wanbatch    # with fpath+=~/.zfunc before compinit in ~/.zshrc
      wanbatch completion fish > ~/.config/fish/completions/wanbatch.fish
    """
    completer = COMPLETERS[shell](ctx.find_root().command, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE")
    click.echo(completer.source())
