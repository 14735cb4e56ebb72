import subprocess
import sys

from toolpost.calls.call import _AT_ONCE, new_id

FORKS = """
import os
from toolpost.calls.call import new_id
new_id()
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.write(writing, new_id()[14:].encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reading, 100).decode() != new_id()[14:])
"""


def test_ids_differ_over_more_than_are_drawn_at_once() -> None:
    made = [new_id() for _ in range(3 * _AT_ONCE)]

    assert len({one[15:] for one in made}) == len(made)
    assert all(len(one) == 36 and one[14] == "7" and one[19] in "89ab" for one in made)


def test_a_forked_child_gives_other_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "True"
