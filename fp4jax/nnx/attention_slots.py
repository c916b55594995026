"""Where a model attends, and the slot in which attention takes its function.

``nnx.MultiHeadAttention`` has one, ``attention_fn``. So has any module with a class attribute of
that name: None, or the function that it calls. The function is called with q, k and v (*batch,
tokens, heads, channels) and, by name, ``bias``, ``mask`` and ``dropout`` as
:func:`fp4jax.attention` takes them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from flax import nnx
from flax.nnx.nn.attention import dot_product_attention

from fp4jax.nnx.amax_places import ATTENTION
from fp4jax.nnx.keys import check_model, dotted
from fp4jax.nnx.operations import AttentionOp
from fp4jax.nnx.slots import layers

#: The attribute.
SLOT = "attention_fn"


class AttentionSlot(NamedTuple):
    """The slot of a module that attends."""

    # dotted, of the module
    module_path: str
    module: Any

    @property
    def path(self) -> str:
        """The module's, and "attention" behind it: what rules and ``keep`` are matched with."""
        return f"{self.module_path}.{ATTENTION}" if self.module_path else ATTENTION

    @property
    def held(self) -> Any:
        """What is in the slot; None for the module's own default."""
        held = getattr(self.module, SLOT, None)
        return None if held is self._default else held

    @property
    def operation(self) -> AttentionOp | None:
        """What is in the slot, if it is ours."""
        return self.held if isinstance(self.held, AttentionOp) else None

    @property
    def problem(self) -> str | None:
        """Why the slot cannot be filled: it holds somebody else's function."""
        if self.held is None or self.operation is not None:
            return None
        return (
            f"{self.module_path or 'the model'} has its own {SLOT}, which an attention recipe "
            "would replace; reset it to Flax's default first, or leave this attention out."
        )

    def inject(self, recipe: Any) -> None:
        """Puts an operation with a recipe into the slot."""
        self.put(AttentionOp(recipe, self.module_path, self._stack))

    def put(self, operation: nnx.Module) -> None:
        """Puts an operation into the slot."""
        setattr(self.module, SLOT, nnx.data(operation))

    def empty(self) -> None:
        """Puts back what the module has by default."""
        if isinstance(self.module, nnx.MultiHeadAttention):
            setattr(self.module, SLOT, nnx.static(self._default))
        elif SLOT in vars(self.module):
            delattr(self.module, SLOT)

    @property
    def _default(self) -> Any:
        if isinstance(self.module, nnx.MultiHeadAttention):
            return dot_product_attention
        return getattr(type(self.module), SLOT)

    @property
    def _stack(self) -> tuple[int, ...]:
        """That of the projections, see :class:`fp4jax.nnx.slots.Layer`."""
        return next((layer.stack for layer in layers(self.module)), ())


def attention_slots(model: Any) -> Iterator[AttentionSlot]:
    """All of a model.

    Example:
        >>> model = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        >>> [(slot.path, slot.held) for slot in attention_slots(model)]
        [('attention', None)]
    """
    check_model(model)
    # A list: callers change the modules.
    for path, module in list(nnx.iter_modules(model)):
        if isinstance(module, nnx.MultiHeadAttention) or hasattr(type(module), SLOT):
            yield AttentionSlot(dotted(path), module)
