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
    ("py:class", "AioSession|BidiAgentSaveLatestStrategy|LocalAgent|MultiAgentBase"),
    ("py:class", "MultiAgentSaveLatestStrategy|SaveLatestStrategy|SearchStrategy"),
    ("py:class", "SnapshotTrigger|StorageSearchResult"),
    ("py:class", r".*\.StorageT_co"),
]

PUBLIC = (
    "snapstore",
    "snapstore.stores",
    "snapstore.testing",
    "snapstore.testing.server",
    "snapstore.integrations.fastapi",
    "snapstore.integrations.strands",
    "snapstore.pytest_plugin",
)
"""The modules whose names are documented."""


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a type in a signature, given by its private module, to its public name."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    name = node["reftarget"].rpartition(".")[2]
    for module in PUBLIC:
        if f"{module}.{name}" in domain.objects:
            found: nodes.reference | None = domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", f"{module}.{name}", node, contnode
            )
            return found
    return None


def setup(app: Sphinx) -> None:
    """Register the resolver."""
    app.connect("missing-reference", resolve_public_name)
