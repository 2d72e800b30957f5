"""A package of somebody else's holds itself to the published suites, which catch what it breaks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from snapstore.testing import ObjectStoreTests, VersionedSnapshotStorageTests

PACKAGE = Path(__file__).parents[1] / "third_party"
PYTESTS_CI = {"CI", "BUILD_NUMBER"}
IGNORED = shutil.ignore_patterns("__pycache__")

# What its author might have got wrong: (what is written there, what could be, what catches it).
MISTAKES = {
    "a prefix in LIKE, where _ and % stand for anything": (
        "substr(key, 1, length(:prefix)) = :prefix",
        "key LIKE :prefix || '%'",
        ["test_a_prefix_is_no_pattern_either"],
    ),
    "a prefix in GLOB, where * and ? do": (
        "substr(key, 1, length(:prefix)) = :prefix",
        "key GLOB :prefix || '*'",
        ["test_a_prefix_is_no_pattern_either", "test_a_key_is_any_text"],
    ),
    "the prefix anywhere in the key": (
        "substr(key, 1, length(:prefix)) = :prefix",
        "instr(key, :prefix)",
        [
            "test_a_scan_of_nothing_has_no_keys",
            "test_a_prefix_is_text_and_no_folder",
            "test_deleting_a_session_leaves_its_siblings_alone",
        ],
    ),
    "an inclusive cursor": (
        "AND key > :after",
        "AND key >= :after",
        ["test_start_after_is_exclusive_and_need_not_exist", "test_a_cursor_is_exclusive"],
    ),
    "keys in no order": (
        "ORDER BY key",
        "ORDER BY random()",
        ["test_keys_of_one_folder_come_in_ascending_order"],
    ),
    "keys in the order of a dictionary": (
        "ORDER BY key",
        "ORDER BY key COLLATE NOCASE",
        ["test_keys_of_one_folder_come_in_ascending_order"],
    ),
    "keys that differ in case only are one": (
        "key TEXT PRIMARY KEY",
        "key TEXT COLLATE NOCASE PRIMARY KEY",
        ["test_keys_of_one_folder_come_in_ascending_order"],
    ),
    "the newest first": (
        "ORDER BY key",
        "ORDER BY key DESC",
        ["test_keys_of_one_folder_come_in_ascending_order", "test_ids_are_listed_oldest_first"],
    ),
    "one page only": (
        "after = keys[-1]",
        "return",
        [
            "test_every_page_size_and_start_gives_its_part_of_the_whole",
            "test_history_over_1000_is_listed_and_deleted",
        ],
    ),
    "pages of any size": (
        "size=page_size",
        "size=10_000",
        ["test_every_page_size_and_start_gives_its_part_of_the_whole"],
    ),
    "an empty body is none": (
        "if not found:",
        "if not found or not found[0][0]:",
        [
            "test_a_body_is_stored_and_read_as_it_is",
            "test_corrupt_object_error_names_its_key_and_no_text",
        ],
    ),
    "bodies kept as text": (
        "Version(etag(data))",
        'Version(etag(data.decode(errors="replace").encode()))',
        ["test_a_body_is_stored_and_read_as_it_is"],
    ),
    "one byte too many is allowed": (
        "len(body) > max_bytes",
        "len(body) > max_bytes + 1",
        ["test_an_object_larger_than_allowed_is_not_read"],
    ),
    "if_none_match writes over what there is": (
        "INSERT OR IGNORE",
        "INSERT OR REPLACE",
        [
            "test_if_none_match_writes_only_where_there_is_no_object",
            "test_an_empty_object_is_one_for_if_none_match",
            "test_save_of_another_snapshot_under_a_taken_id_is_an_error",
        ],
    ),
    "if_none_match is not told that it failed": (
        "**values) == 0:",
        "**values) == 0 and not if_none_match:",
        [
            "test_of_five_that_create_an_object_one_wins",
            "test_if_none_match_over_a_snapshot_is_a_conflict",
        ],
    ),
    "if_match compares nothing": (
        "WHERE key = :key AND etag(body) = :expected",
        "WHERE key = :key OR etag(body) = :expected",
        [
            "test_if_match_writes_only_over_the_version_it_names",
            "test_of_five_that_replace_a_version_one_wins",
            "test_if_match_of_an_older_version_is_a_conflict",
        ],
    ),
    "if_match forgets which object": (
        "WHERE key = :key AND etag(body) = :expected",
        "WHERE etag(body) = :expected",
        ["test_if_match_looks_at_no_other_object"],
    ),
    "an etag is a body's length": (
        "hashlib.sha256(body).hexdigest()",
        "str(len(body))",
        ["test_another_content_has_another_etag_without_quotes"],
    ),
    "an etag has quotes": (
        "hashlib.sha256(body).hexdigest()",
        "f'\"{hashlib.sha256(body).hexdigest()}\"'",
        ["test_another_content_has_another_etag_without_quotes"],
    ),
    "a missing object is another writer's": (
        "is_missing=not found",
        "is_missing=False",
        [
            "test_if_match_fails_where_there_is_no_object",
            "test_if_match_of_a_deleted_snapshot_is_a_conflict",
        ],
    ),
    "a refused write keeps what it was to write": (
        "if await self._count(statement, **values) == 0:",
        (
            "if await self._count(statement, **values) == 0:\n"
            "            written = 'UPDATE objects SET body = :body WHERE key = :key'\n"
            "            await self._count(written, key=key, body=data)"
        ),
        [
            "test_if_match_writes_only_over_the_version_it_names",
            "test_if_match_of_an_older_version_is_a_conflict",
        ],
    ),
    "a delete takes what begins alike": (
        "WHERE key IN ({named})",
        "WHERE EXISTS (SELECT 1 FROM ({named}) WHERE instr(key, value) = 1)",
        ["test_only_what_is_named_is_deleted"],
    ),
    "a delete takes the first hundred": (
        "json.dumps(keys)",
        "json.dumps(keys[:100])",
        ["test_a_thousand_objects_are_deleted_at_once"],
    ),
    "a key with a tab is two": (
        "json.dumps(keys)",
        'json.dumps("\\t".join(keys).split("\\t"))',
        ["test_odd_keys_are_deleted_together_with_plain_ones"],
    ),
    "it opens on no other loop than the first one": (
        "self.thread = ThreadPoolExecutor(1)",
        (
            "self.loop = getattr(self, 'loop', None) or asyncio.get_running_loop()\n"
            "        assert self.loop is asyncio.get_running_loop()\n"
            "        self.thread = ThreadPoolExecutor(1)"
        ),
        ["test_a_store_whose_loop_was_closed_opens_on_another_one"],
    ),
    "nothing outlives closing": (
        "CREATE TABLE IF NOT EXISTS objects",
        "DROP TABLE IF EXISTS objects; CREATE TABLE objects",
        ["test_a_closed_store_may_be_opened_again"],
    ),
}


SOUND = "test_deleting_nothing_does_nothing"
"""What passes with any of them: none has broken everything."""


@pytest.fixture
def package(tmp_path):
    """A copy of the package, as its author has it."""
    return shutil.copytree(PACKAGE, tmp_path / "package", ignore=IGNORED)


def run(package, *tests):
    """Run tests of the package: what was printed, and the outcomes of each by its node id."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line"]
    # Under `CI` pytest shows all of what differs, and to find that out takes it minutes.
    terse = {name: value for name, value in os.environ.items() if name not in PYTESTS_CI}
    outcome = subprocess.run(
        [*command, "--junitxml=results.xml", *tests],
        cwd=package,
        env=terse,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = {}
    for case in ET.parse(package / "results.xml").iter("testcase"):
        module, group = case.get("classname").split(".")
        outcomes = {child.tag for child in case} - {"properties", "system-out"}
        test = f"{module}.py::{group}::{case.get('name').partition('[')[0]}"
        found.setdefault(test, set()).update(outcomes or {"passed"})
    return outcome.stdout, found


def node_ids(module, names):
    """The node ids of the tests in a module that have these names."""
    return {f"{module}.py::{group}::{name}" for name in names for group in groups_of(name)}


def groups_of(name):
    suites = {"TestStore": ObjectStoreTests, "TestStorage": VersionedSnapshotStorageTests}
    return {group for group, suite in suites.items() if hasattr(suite, name)}


def names_in(suite):
    return {name for name in dir(suite) if name.startswith("test_")}


def test_a_storage_of_somebody_else_passes_every_test(package):
    printed, found = run(package)

    names = names_in(ObjectStoreTests) | names_in(VersionedSnapshotStorageTests)
    assert found == {test: {"passed"} for test in node_ids("test_shoebox", names)}, printed


def test_mistakes_are_caught_by_the_tests_expected(package):
    wanted = {}
    for number, (mistake, (written, instead, catching)) in enumerate(MISTAKES.items()):
        broken = shutil.copytree(package / "shoebox", package / f"shoebox_{number}")
        replace(broken / "__init__.py", written, instead)
        module = shutil.copy(package / "test_shoebox.py", package / f"test_shoebox_{number}.py")
        replace(module, "from shoebox import", f"from shoebox_{number} import")
        wanted[mistake] = [node_ids(module.stem, names) for names in (catching, [SOUND])]

    # What a mistake leaves open would be an error of whichever test runs when that is collected.
    collected_unseen = ("-p", "no:unraisableexception")
    tests = (test for pair in wanted.values() for test in set.union(*pair))
    printed, found = run(package, *collected_unseen, *tests)

    for mistake, (catching, sound) in wanted.items():
        assert all("failure" in found[test] for test in catching), (mistake, catching, printed)
        assert all(found[test] == {"passed"} for test in sound), (mistake, printed)


def replace(path, written, instead):
    source = path.read_text()
    assert source.count(written) == 1, written
    path.write_text(source.replace(written, instead))
