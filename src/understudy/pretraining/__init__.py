"""How start students are made: codec, base, few-step distillation."""
