"""The language model's context: the one check that a sequence fits."""


def require_context(what: str, tokens: int, context: int) -> None:
    """Refuse a sequence that the language model's context does not hold; `what` names it in the message.

    Raises:
        ValueError: with the length, the context and what helps.
    """
    if tokens > context:
        raise ValueError(
            f"{what} has {tokens} tokens, but the language model's context holds {context}; shorten the text, lower "
            "tokens_per_side or choose a view strategy with fewer views"
        )
