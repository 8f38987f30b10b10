# SPDX-License-Identifier: GPL-2.0-or-later
"""PostgreSQL and its pgbench in a guest, from Debian's packages in the image."""

import re

from ..errors import LabError

SCALE_MIB = 16
"""What one of pgbench's scale (100,000 accounts) takes on disk, roughly."""
WAL_MIB = 128
"""Of the log that is kept: the guest's disk is small."""
BUFFERS_MIB = 16
"""Of the server's own: the rest of the database is in the page cache."""
CLIENTS = 4
_CLUSTER = "$(pg_lsclusters -h | cut -d' ' -f1,2)"
"""The version and name of the cluster that the package has made."""


def prepare(mib: int) -> str:
    """Start the server and fill a database of `mib`."""
    return (f"pg_ctlcluster {_CLUSTER} start "
            f"-o '-c max_wal_size={WAL_MIB}MB -c shared_buffers={BUFFERS_MIB}MB' && "
            f"su postgres -c 'createdb bench && pgbench -q -i -s {max(1, mib // SCALE_MIB)} bench "
            "&& psql -q -c CHECKPOINT bench' 2>&1")


def run(seconds: int) -> str:
    """Transactions as TPC-B has them, for so long."""
    return f"su postgres -c 'pgbench -n --random-seed=2014 -c {CLIENTS} -T {seconds} bench' 2>&1"


def transactions(said: str) -> int:
    """How many there were, by pgbench's summary. Raises LabError."""
    found = re.search(r"^number of transactions actually processed: (\d+)", said, re.MULTILINE)
    if found is None:
        raise LabError(f"output of pgbench not understood: {said[-200:]!r}")
    return int(found[1])
