"""Mini with fresh adapters, on one thread."""

from helpers.fixtures import adapted as adapted
from helpers.fixtures import one_block as one_block
from helpers.fixtures import one_thread as one_thread
from helpers.fixtures import own_home as own_home
from helpers.fixtures import small_base as small_base
