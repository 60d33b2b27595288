"""Where a K2 is: its folder, and where its services are said to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.embedded.airflow import airflow_environment
from k2.embedded.java import JavaError, java_home
from k2.embedded.state import read_state, running_owner, state_directory
from k2.errors import SettingsError
from k2.settings import Settings, environment_of, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Surroundings:
    """What checks go by. `shell` is the environment of the command, `environment` that of a task.

    `nowhere` says why there are no settings; `owner` is the process that runs an embedded stack.
    """

    shell: Mapping[str, str]
    environment: Mapping[str, str]
    directory: Path
    owner: int | None
    known: Settings | None
    nowhere: str = ""

    @property
    def own_services(self) -> bool:
        """Whether the environment names services, so that no embedded stack is meant."""
        return "K2_CLICKHOUSE_HOST" in self.shell

    @property
    def settings(self) -> Settings:
        """Where the services are.

        Raises:
            SettingsError: nobody said, as no stack is running.
        """
        if self.known is None:
            raise SettingsError(self.nowhere)
        return self.known


def look_around(shell: Mapping[str, str]) -> Surroundings:
    """The surroundings of a command that was started with an environment.

    Raises:
        SettingsError: it names services, but not completely.
        StackError: the embedded stack's state cannot be read.
    """
    directory = state_directory(shell)
    if "K2_CLICKHOUSE_HOST" in shell:
        return Surroundings(shell, shell, directory, None, load_settings(shell))
    state, owner = read_state(directory), running_owner(directory)
    if state is None or owner is None:
        nowhere = f"no stack is running on {directory}"
        return Surroundings(shell, shell, directory, None, None, nowhere)
    settings = state.settings(directory)
    try:
        environment = airflow_environment(state, directory, java_home(shell), shell)
    except JavaError:
        environment = {**shell, **environment_of(settings)}
    return Surroundings(shell, environment, directory, owner, settings)
