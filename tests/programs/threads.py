"""Ask keyring for several URLs at once, in a thread each."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from prelude import ask, keyring, show

urls = sys.argv[1:]
barrier = Barrier(len(urls))
keyring.get_keyring()  # which is not safe to call from several threads


def ask_at_once(url: str) -> object:
    barrier.wait()
    return ask(url)


with ThreadPoolExecutor(len(urls)) as pool:
    show([*pool.map(ask_at_once, urls)])
