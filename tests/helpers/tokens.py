"""Offsets of tokens, worked out in plain loops."""


def with_dropped_characters(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets of a text's tokens that take in the characters behind them that no token has."""
    extended = []
    for token, (begin, end) in enumerate(offsets):
        following = offsets[token + 1][0] if token + 1 < len(offsets) else len(text)
        while end < following and not text[end].isspace():
            end += 1
        extended.append((begin, end))
    return extended
