"""How Sphinx builds the documentation: `nox -s docs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "snapstore"
author = "The snapstore founders"
copyright = author  # noqa: A001 -- the name that Sphinx reads
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "snapstore"

default_role = "code"  # single backticks in docstrings
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3

# No inventories are downloaded, so only references to snapstore itself can be resolved.
nitpick_ignore_regex = [
    ("py:.*", r"(?!snapstore\b)[A-Za-z_]\w*(\.\w+)+"),
    # Types of other packages that are imported for type checkers only.
    ("py:class", "AioConfig|AioSession|BidiAgentSaveLatestStrategy|LocalAgent|MultiAgentBase"),
    ("py:class", "MultiAgentSaveLatestStrategy|SaveLatestStrategy|SearchStrategy"),
    ("py:class", "SnapshotTrigger|StorageSearchResult"),
    ("py:class", "SessionKey|SessionListSubkeysKey|SessionStoreEntry|SessionStoreListEntry"),
    ("py:class", "SessionSummaryEntry|SessionSettings|TResponseInputItem"),
    ("py:exc", "ConversationConflict"),
    ("py:class", "datetime"),  # in a NamedTuple its module is not told
    # Type variables, and types that nobody needs to name.
    ("py:class", r"snapstore\..*\.(EventT_co|Kind|R|ReportT_co|StorageT_co|T)"),
    ("py:class", r"snapstore\..*\.(WriteT|WriteT_contra)"),
    ("py:class", r"snapstore\.(stores\.lifecycle\.Use|model\.keys\.Layout)"),
]

PUBLIC = (
    "snapstore",
    "snapstore.operations",
    "snapstore.stores",
    "snapstore.stores.readback",
    "snapstore.testing",
    "snapstore.testing.proxy",
    "snapstore.testing.server",
    "snapstore.integrations.claude",
    "snapstore.integrations.fastapi",
    "snapstore.integrations.openai_agents",
    "snapstore.integrations.portal",
    "snapstore.integrations.opentelemetry",
    "snapstore.integrations.pydantic_ai",
    "snapstore.integrations.strands",
    "snapstore.pytest_plugin",
)
"""The modules whose names are documented."""


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Element | None:
    """Resolve a type in a signature, given by its private module, to its public name."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    for module in PUBLIC:
        target = f"{module}.{name}"
        found = env.get_domain("py").resolve_xref(
            env, node["refdoc"], app.builder, "obj", target, node, contnode
        )
        if found is not None:
            return found
    return None


def tidy_signature(
    _app: Sphinx,
    what: str,
    _name: str,
    _object: object,
    _options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """Leave out the arguments of an error, which its attributes repeat, and show empty defaults."""
    if signature is None:
        return None
    if what == "exception":
        return "", None
    return signature.replace("<factory>", "{}"), returns


def keep_colons(
    _app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Keep napoleon from taking what is before a colon in an attribute's docstring for a type."""
    if what in {"attribute", "data", "property"} and lines and ":" in lines[0]:
        lines[:0] = ["..", ""]  # a comment, and the first line that napoleon looks at


def skip_fields_of_tuples(
    _app: Sphinx, _what: str, _name: str, found: object, _skip: bool, _options: object
) -> bool | None:
    """Leave out the fields of a `NamedTuple`, which its docstring describes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    """Register what is called while the documentation is built."""
    app.connect("missing-reference", resolve_public_name)
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields_of_tuples)
