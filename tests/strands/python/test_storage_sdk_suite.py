"""The SDK's own tests of a storage and of what uses one, on snapstore's.

They come with the SDK's source. What they say of one of the SDK's storages alone is left out.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(os.environ["SNAPSTORE_SDK_SOURCE"]) / "tests" / "strands"

OF_ANY_STORAGE = [
    "storage/test_in_memory_storage.py",
    "storage/test_storage.py",
    "storage/search/test_keyword.py",
    "_context_manager",
    "vended_plugins/context_offloader",
    "vended_memory_stores/file_memory_store",
]
OF_MEMORY_ALONE = (
    "test_clear or test_namespace_clear or "
    # They look into it, or at its class, which is a function here.
    "test_skips_keys_where_read_returns_none or test_namespace_returns_scoped_instance or "
    "test_namespace_keeps_subclass_overrides or test_returns_class_name_of_base_storage or "
    # It is gone with the process.
    "test_false_with_namespaced_in_memory_storage"
)

OF_SESSIONS = ["session/test_snapshot_session_manager.py", "agent/test_agent_storage.py"]
OF_FILES_ALONE = (
    # They store what is no snapshot under the key of one, which is refused.
    "test_list_snapshot_ids_pagination or test_corrupt_snapshot or test_wrong_shape_snapshot or "
    # It is about the name of its class.
    "test_save_writes_external_ref_for_durable_storage"
)
OF_THE_SDKS_MANAGER_ALONE = (
    f"{OF_FILES_ALONE} or "
    # They give it a storage of their own, or none.
    "test_parallel_node_snapshot_commits or test_multi_agent_save_locks or "
    "test_multi_agent_restore_without or test_multi_agent_restore_retries or "
    "falls_back_to_local_file or test_session_manager_uses_agent_storage or "
    "test_explicit_session_storage or "
    # They replace the storage's `write`, to see what is written.
    "test_save_latest_on_message_writes or test_invocation_strategy_saves_once or "
    "test_triggered_turn_captures or test_bidi_agent_stop_strategy or "
    "test_bidi_agent_defaults_to_message or test_bidi_agent_ignores_agent_save_latest_on"
)


@pytest.mark.parametrize(
    ("instead", "suites", "left_out", "at_least"),
    [
        ("memory", OF_ANY_STORAGE, OF_MEMORY_ALONE, 500),
        ("files", OF_SESSIONS, OF_FILES_ALONE, 120),
        ("files,manager", OF_SESSIONS, OF_THE_SDKS_MANAGER_ALONE, 100),
    ],
)
@pytest.mark.parametrize("store", ["s3", "files", "memory"])
def test_the_sdks_own_tests_pass(
    store, instead, suites, left_out, at_least, options, s3_server, tmp_path
):
    program = [sys.executable, "-m", "pytest", "-p", "sdk_suite", "-p", "no:cacheprovider"]
    program += ["-q", "-o", "addopts=", "-o", "filterwarnings=", "-k", f"not ({left_out})"]
    done = subprocess.run(
        [*program, *(str(TESTS / suite) for suite in suites)],
        cwd=TESTS.parent.parent,
        env=os.environ
        | s3_server.environment()
        | {
            "PYTHONPATH": str(Path(__file__).parent),
            "SNAPSTORE_INSTEAD": instead,
            "SNAPSTORE_STORE": store,
            "SNAPSTORE_ROOT": str(tmp_path / "root"),
            "SNAPSTORE_BUCKET": options["bucket"],
            "SNAPSTORE_PREFIX": options["prefix"],
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= at_least
