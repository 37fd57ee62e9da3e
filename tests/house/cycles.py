"""Checks that no modules of `wanbatch` import each other in a circle, and no wings either.

A wing is a folder inside one of the four top-level folders, such as `wanbatch.jobs.driver`; a file that stands
directly in one of the four, such as `wanbatch.pipeline.generate`, counts as a wing of its own. Every import counts:
those inside functions and those under `TYPE_CHECKING` too. grimp, on which import-linter is built, reads them from
the source.

`make check` runs this file as a script: `python tests/house/cycles.py`. It prints the circles, import by import, and
exits with 1 if there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import grimp
import networkx as nx


def import_graph(package: str = "wanbatch") -> nx.DiGraph:
    """Return the imports between the modules of `package`, which must be importable.

    Returns:
        A graph with an edge from each module to each module that it imports. The edge's `at` is the line number of
        the first such import, its `line` the text of that line.
    """
    modules = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    graph = nx.DiGraph()
    graph.add_nodes_from(modules.modules)
    for importer in modules.modules:
        for imported in modules.find_modules_directly_imported_by(importer):
            details = modules.get_import_details(importer=importer, imported=imported)
            first = min(details, key=lambda one: one["line_number"])
            graph.add_edge(importer, imported, at=first["line_number"], line=first["line_contents"].strip())
    return graph


def wing_of(module: str) -> str:
    """Return the wing of a module: `wanbatch.jobs.driver` of `wanbatch.jobs.driver.run`."""
    return ".".join(module.split(".")[:3])


def wing_graph(modules: nx.DiGraph) -> nx.DiGraph:
    """Return the imports between wings. An edge's `imports` are those between their modules, as pairs of names."""
    graph = nx.DiGraph()
    graph.add_nodes_from(wing_of(module) for module in modules)
    for importer, imported in sorted(modules.edges):
        edge = wing_of(importer), wing_of(imported)
        if edge[0] != edge[1]:
            graph.add_edge(*edge)
            graph.edges[edge].setdefault("imports", []).append((importer, imported))
    return graph


def circles(graph: nx.DiGraph) -> Iterator[list[tuple[str, str]]]:
    """Yield one circle, as its edges, for each group of nodes that all reach each other."""
    for group in sorted(sorted(group) for group in nx.strongly_connected_components(graph)):
        if len(group) > 1 or graph.has_edge(group[0], group[0]):
            yield min((nx.find_cycle(graph.subgraph(group), node) for node in group), key=len)


def descriptions(modules: nx.DiGraph) -> Iterator[str]:
    """Yield a text for every circle between modules, then for every circle between wings."""
    for circle in circles(modules):
        steps = [describe_import(modules, importer, imported) for importer, imported in circle]
        yield "\n".join([f"{len(circle)} modules import each other in a circle:", *steps])
    wings = wing_graph(modules)
    for circle in circles(wings):
        steps = [describe_import(modules, *pair) for edge in circle for pair in wings.edges[edge]["imports"]]
        names = " -> ".join([*(importer for importer, _ in circle), circle[0][0]])
        yield "\n".join([f"{len(circle)} wings import each other in a circle, {names}:", *steps])


def describe_import(modules: nx.DiGraph, importer: str, imported: str) -> str:
    """Return one line that says which module imports which, and where."""
    edge = modules.edges[importer, imported]
    return f"    {importer} -> {imported}    (line {edge['at']}: {edge['line']})"


def main(package: str = "wanbatch") -> int:
    """Print the circles in `package`; return the exit code."""
    modules = import_graph(package)
    problems = list(descriptions(modules))
    print("\n".join(problems) or f"No circle among {len(modules)} modules and {len(wing_graph(modules))} wings.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
