from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from optmerge.bench.trials.workers import WorkerError, Workers


def square(number: int) -> int:
    if number < 0:
        os._exit(7)
    return number * number


def where(number: int) -> tuple[int, int]:
    import torch

    time.sleep(0.3)
    return os.getpid(), torch.get_num_threads()


def test_items_come_back_done_and_one_that_kills_its_process_alone_is_lost() -> None:
    found, waiting = {}, [3, -1, 4, 5]
    with Workers(square, 1) as pool:
        while waiting or pool.busy:
            while waiting and not pool.full:
                pool.give(waiting.pop(0))
            item, value = pool.take()
            found[item] = value
    assert isinstance(found[-1], WorkerError) and "exit code 7" in str(found.pop(-1))
    assert found == {3: 9, 4: 16, 5: 25}


def test_processes_work_side_by_side_one_thread_each_and_end_with_the_pool() -> None:
    with Workers(where, 2) as pool:
        pool.give(1)
        pool.give(2)
        assert pool.full
        (_, first), (_, second) = pool.take(), pool.take()
        assert not pool.busy
    pids, threads = zip(first, second, strict=True)
    assert len(set(pids)) == 2 and set(threads) == {1}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_cannot_start_says_why_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    (tmp_path / "only_here.py").write_text(
        "from pathlib import Path\n"
        "imported = Path(__file__).with_suffix('.imported')\n"
        "if imported.exists():\n"
        "    raise ImportError('no library called merged_away')\n"
        "imported.touch()\n"
        "def double(number):\n"
        "    return 2 * number\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with Workers(import_module("only_here").double, 1) as pool:
            pool.give(3)
            item, value = pool.take()
    finally:
        sys.modules.pop("only_here", None)
    assert item == 3 and isinstance(value, WorkerError)
    assert "exit code 1: ImportError: no library called merged_away" in str(value)
    assert "Traceback" not in capfd.readouterr().err


def complains(number: int) -> int:
    print("half done", file=sys.stderr, flush=True)
    os._exit(number)


def test_a_script_without_the_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from math import sqrt\n"
        "from optmerge.bench.trials.workers import Workers\n"
        "with Workers(sqrt, 1) as pool:\n"
        "    pool.give(4.0)\n"
        "    print(pool.take()[1])\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert "if __name__ == '__main__':" in ran.stdout and "Traceback" not in ran.stdout


def test_what_a_process_says_once_it_has_started_goes_to_the_error_stream(capfd: Any) -> None:
    with Workers(complains, 1) as pool:
        pool.give(7)
        _, value = pool.take()
    assert "half done" in capfd.readouterr().err
    assert str(value) == "the process died with exit code 7"
