"""`tsembed explain`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError


@options.described(
    ("the best hit of a search", "tsembed explain a red bicycle in the snow 1"),
    ("a file of the index", "tsembed explain a red bicycle ~/Pictures/bike.jpg"),
    ("a search by picture", "tsembed explain --image photo.jpg 1"),
    no_args_is_help=True,
)
def explain(
    words: Annotated[
        list[str],
        Argument(
            metavar="[QUERY] HIT",
            help="The words of the search. Then the hit: its number in that search, its path, or its id.",
            show_default=False,
        ),
    ],
    image: options.Image = None,
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    wait: options.Wait = False,
    model: options.Model = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show which experts a query and a hit share.

    For models with experts. Each line is a block of the model and what it adds to the similarity of the routes, which
    is the sum of all lines.
    """
    from tsembed_search.cli.render import experts

    *query, hit = words
    asked = options.query_item(query, image)
    if asked is None:
        raise UsageError("The query is missing.", "Give the words, then the hit: tsembed explain a red bicycle 1")
    with (
        options.open_index(index, url, model=model, device=device, wait=wait) as opened,
        render.working("Comparing", quiet=quiet),
    ):
        found = opened.explain(asked, hit)
    if json:
        render.print_json(found.to_json())
    else:
        experts.print_explanation(found)
