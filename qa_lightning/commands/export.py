"""python -m qa_lightning export: write a model for others to use."""

from pathlib import Path

from qa_lightning.commands.parser import CommandParser, quiet_transformers
from qa_lightning.errors import UserError

EXAMPLES = """\
examples:
  python -m qa_lightning export lightning_logs/version_0 my-model
  python -m qa_lightning export lightning_logs/version_0 my-model --data dev.json
  python -m qa_lightning export lightning_logs/version_0 my-model --onnx --int8 --data dev.json
  python -m qa_lightning export lightning_logs/version_0 my-model --push OWNER/my-model
"""


def run(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.private and options.push is None:
        raise UserError("--private is about the hub: give --push NAME too")
    quiet_transformers()
    from qa_lightning.export.hub_folder import export
    from qa_lightning.export.model_card import CardMetadata
    from qa_lightning.export.upload import check_upload, upload

    if options.push is not None:
        check_upload(options.push)
    metadata = CardMetadata(
        name=options.name or options.push or options.out.resolve().name,
        **{name: options[name] for name in ("license", "language", "base_model")},
        notes=None if options.notes is None else _text(options.notes),
    )
    chosen = {name: options[name] for name in ("data", "onnx", "int8", "overwrite")}
    export(options.model, options.out, metadata, **chosen, log=print)
    if options.push is not None:
        upload(options.out, options.push, private=options.private, log=print)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "export",
        "Write a model as a Hugging Face folder: weights, tokenizer, null threshold and a model "
        "card; if asked for, as ONNX too, and onto the hub.",
        EXAMPLES,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run's folder (the model card says most of that), a checkpoint, an exported folder, "
        "or the name of a question-answering model on the hub",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument(
        "--data", metavar="FILE", type=Path, help="SQuAD-format file to score the model on"
    )
    card = parser.add_argument_group("what the model card cannot know")
    card.add_argument("--name", help="the model's name; by default that of --push, else of OUT")
    card.add_argument("--license", help="its licence, as the hub names it, such as apache-2.0")
    card.add_argument("--language", help="code of its language, such as en")
    card.add_argument("--base_model", metavar="NAME", help="the hub's name of the encoder")
    card.add_argument(
        "--notes", metavar="FILE", type=Path, help="Markdown to add, such as where the data is from"
    )
    parser.add_argument("--push", metavar="NAME", help="upload the folder as the model OWNER/NAME")
    for flag, meaning in (
        ("overwrite", "replace an exported folder"),
        ("onnx", "write model.onnx too, compared with torch's model"),
        ("int8", "and model_int8.onnx: a quarter of the size, scored on --data"),
        ("private", "make the model that --push names private, if it is new"),
    ):
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)
    return parser


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--notes {path} cannot be read as text in UTF-8: {error}") from error
