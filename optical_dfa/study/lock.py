"""One lock for all workers of a storage: of a file beside SQLite, of the server for PostgreSQL.

Either is let go of when its holder dies, by the kernel or by the server.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from filelock import FileLock
from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

Lock = Callable[[], AbstractContextManager[object]]


def lock_of(url: URL, name: str) -> Lock:
    """A lock of a storage.

    Args:
        url: of the storage.
        name: what is locked in it. SQLite has one lock for all.
    """
    if url.get_backend_name() == "sqlite":
        path = f"{url.database}.lock"
        return lambda: FileLock(path)
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    engine = create_engine(url, poolclass=NullPool)

    @contextmanager
    def hold() -> Iterator[None]:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
            yield  # the connection is closed at the end, and the lock with it

    return hold
