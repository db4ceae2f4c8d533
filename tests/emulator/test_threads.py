"""The threads that Numba kernels share."""

import os
import threading

import pytest

from optical_dfa.emulator import NumbaProduct
from optical_dfa.emulator.numba_support import why_no_product
from optical_dfa.emulator.threads import n_threads, share


@pytest.mark.parametrize("threads", [1, 2, 5, 40])
@pytest.mark.parametrize("n_jobs", [0, 1, 3, 100])
def test_every_job_is_done_once_with_the_buffers_of_its_thread(threads: int, n_jobs: int) -> None:
    done: list[int] = []
    makers: list[int] = []

    def make_scratch() -> int:
        makers.append(threading.get_ident())
        return makers[-1]

    def work(job: int, scratch: int) -> None:
        assert scratch == threading.get_ident()
        done.append(job)

    share(range(n_jobs), threads, make_scratch, work)
    assert sorted(done) == list(range(n_jobs))
    assert len(makers) <= max(1, min(threads, n_jobs))


@pytest.mark.parametrize("bad_job", [0, 7, 39])
def test_a_job_that_fails_hands_on_its_error(bad_job: int) -> None:
    def work(job: int, scratch: None) -> None:
        if job == bad_job:
            raise RuntimeError(f"job {job}")

    for _ in range(5):  # the pool is usable afterwards
        with pytest.raises(RuntimeError, match=f"job {bad_job}"):
            share(range(40), 3, lambda: None, work)


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTICAL_DFA_THREADS", raising=False)
    cpus = n_threads()
    assert 1 <= cpus <= (os.cpu_count() or 1)
    for wish in (1, cpus, cpus + 7):
        monkeypatch.setenv("OPTICAL_DFA_THREADS", str(wish))
        assert n_threads() == min(wish, cpus)


@pytest.mark.parametrize("wish", ["0", "-1", "two", "1.5", " "])
def test_an_impossible_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("OPTICAL_DFA_THREADS", wish)
    expected = "environment variable OPTICAL_DFA_THREADS must be a whole number, 1 or more; got "
    with pytest.raises(ValueError, match=expected):
        n_threads()
    if why_no_product() is None:
        with pytest.raises(ValueError, match=expected):
            NumbaProduct(500, 500, 0)
