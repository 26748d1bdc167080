"""The way of keys to the browser: what the terminal answers to our questions is taken out of it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from textual.message import Message

from tsembed_search.cli.render.terminal import Abilities, Replies, questions

if TYPE_CHECKING:
    from textual.driver import Driver


class TerminalAnswered(Message):
    """The terminal has said what it can draw."""

    def __init__(self, found: Abilities) -> None:
        super().__init__()
        self.found = found


def asking_driver() -> type[Driver] | None:
    """Return a driver that asks the terminal while the first frame is drawn; None where that cannot be heard.

    Nobody waits for the answers, keys among them stay keys, and an answer that comes late is no key.
    """
    if sys.platform == "win32":
        return None
    import select
    from codecs import getincrementaldecoder

    from textual._xterm_parser import XTermParser
    from textual.drivers.linux_driver import LinuxDriver

    class AskingDriver(LinuxDriver):
        """Hears the terminal's answers."""

        def run_input_thread(self) -> None:
            """Wait for input, and send what it means."""
            answers, told = Replies(), False
            parser = XTermParser(self._debug)
            decode = getincrementaldecoder("utf-8")("replace").decode
            self.write(questions())
            while not self.exit_event.is_set():
                if select.select([self.fileno], [], [], 0.1)[0]:
                    if not (part := os.read(self.fileno, 1 << 12)):
                        return
                    text = answers.take(decode(part))
                else:
                    text = answers.give_back()
                for event in parser.feed(text) if text else ():
                    self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)
                if answers.all_there and not told:
                    told = True
                    self.send_message(TerminalAnswered(answers.found))

    return AskingDriver
