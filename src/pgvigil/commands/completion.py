"""`pgvigil completion`: completes commands, actions, options and their values in a shell."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

from pgvigil import project
from pgvigil.commands.common.groups import Group

GROUP = Group.PROGRAM
SUMMARY = "print the completion of a shell, for its start-up file"

# Words before the cursor that are options, or values of options, are not part of the way to a command.
_BASH = """\
# completion of pgvigil for {shell}; in {file}: eval "$({program} completion {shell})"
{zsh}_pgvigil() {{
    local word previous=${{COMP_WORDS[COMP_CWORD-1]}} current=${{COMP_WORDS[COMP_CWORD]}} way='' choices
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD - 1))}}"; do
        case "$way $word" in
{ways}
        esac
    done
    case "$way $previous" in
{values}
    *) case "$way" in
{choices}
        esac ;;
    esac
    if [[ $choices == *@files* && $current != -* ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
    else
        COMPREPLY=($(compgen -W "${{choices/@files/}}" -- "$current"))
    fi
}}
complete -o filenames -F _pgvigil pgvigil
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
_FILES = ("FILE", "DIR", "ARCHIVE")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=("bash", "zsh"))


def run(arguments: argparse.Namespace) -> int:
    ways, values, choices = [], [], []
    for way, command in _commands("", arguments.build()):
        if way:
            ways.append(f'        {_pattern(way)}) way="$way $word" ;;')
        words = []
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                words += list(action.choices)
            elif action.option_strings:
                words += action.option_strings
                if action.nargs != 0:
                    patterns = "|".join(_pattern(f"{way} {option}") for option in action.option_strings)
                    values.append(f"    {patterns}) choices={_values(action)} ;;")
            elif action.choices:
                words += [str(choice) for choice in action.choices]
            elif action.metavar in _FILES:
                words.append("@files")
        choices.append(f"        {_pattern(way)}) choices={shlex.quote(' '.join(words))} ;;")
    print(
        _BASH.format(
            shell=arguments.shell,
            program=project.program(),
            file=f"~/.{arguments.shell}rc",
            zsh=_ZSH * (arguments.shell == "zsh"),
            ways="\n".join(ways),
            values="\n".join(values),
            choices="\n".join(choices),
        ),
        end="",
    )
    return 0


def _commands(way: str, command: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command and action with the words that lead to it."""
    yield way, command
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _commands(f"{way} {name}", inner)


def _pattern(way: str) -> str:
    return shlex.quote(way) if way else "''"


def _values(action: argparse.Action) -> str:
    if action.choices:
        return shlex.quote(" ".join(map(str, action.choices)))
    return "@files" if action.metavar in _FILES else "''"
