"""How an exported teacher was trained to be asked: two files beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from lrkd.errors import UserError
from lrkd.prompts.book import PromptBook

CARD_FILE, PROMPTS_FILE = "lrkd.json", "prompts.yaml"


@dataclass(frozen=True)
class TeacherCard:
    """What an exported teacher was trained with, beyond its prompt book.

    Args:
        item_text: The template of the item's text; None where the run did not say.
        item_chars: Characters of it at most; None as above.
        prompt_version: The prompt book's version.
        method: The run's method.
        run: The run's folder.
    """

    item_text: str | None
    item_chars: int | None
    prompt_version: str
    method: str
    run: str

    def write(self, folder: Path, book: PromptBook) -> None:
        """Write ``lrkd.json``, and the book as ``prompts.yaml``."""
        card = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / CARD_FILE).write_text(card + "\n", encoding="utf-8")
        prompts = yaml.safe_dump(json.loads(book.to_json()), sort_keys=False, allow_unicode=True, width=110)
        (folder / PROMPTS_FILE).write_text(prompts, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> TeacherCard | None:
        """A folder's card; None: it has none, as a model that ``teacher export`` did not write.

        Raises:
            UserError: The file is broken.
        """
        file = folder / CARD_FILE
        if not file.is_file():
            return None
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: not what `teacher export` writes ({error}); export the run again") from error

    def check(self, folder: Path, **asked: str | int) -> None:
        """Refuse to ask the teacher otherwise than it was trained.

        Args:
            folder: Where the card is, for the message.
            **asked: Options by name: ``prompts`` (the book's version), ``item_text``, ``item_chars``.

        Raises:
            UserError: One differs; names both values.
        """
        trained = {"prompts": self.prompt_version, "item_text": self.item_text, "item_chars": self.item_chars}
        for name, value in asked.items():
            if trained[name] not in (None, value):
                raise UserError(
                    f"{name}: {folder} was trained with {trained[name]!r} and would be asked with {value!r}. Drop the "
                    f"option, or delete {folder / CARD_FILE} to ask it otherwise than it was trained"
                )


def how_to_ask(
    model: str, prompts: str | None, item_text: str | None, item_chars: int | None
) -> tuple[PromptBook, str, int]:
    """The prompt book, the item's text template and its length: as given, else as the model's folder says.

    Args:
        model: A model's name or folder. A folder that ``teacher export`` wrote says how the teacher was trained.
        prompts: A shipped book's name or a YAML file; None: the folder's, else ``esci``.
        item_text: None: the folder's, else the title.
        item_chars: None: the folder's, else 1000.

    Raises:
        UserError: What is given is not what the teacher was trained with, or a file is broken.
    """
    folder = Path(model)
    own = folder / PROMPTS_FILE
    book = PromptBook.load(prompts or (str(own) if own.is_file() else "esci"))
    card = TeacherCard.read(folder)
    trained_text, trained_chars = (card.item_text, card.item_chars) if card is not None else (None, None)
    text = next(template for template in (item_text, trained_text, "{title}") if template is not None)
    chars = next(number for number in (item_chars, trained_chars, 1000) if number is not None)
    if card is not None:
        card.check(folder, prompts=book.version, item_text=text, item_chars=chars)
    return book, text, chars
