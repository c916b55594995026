"""What a runtime executes: the target table, its rules, and models that compute as it does.

mode.py       how a product runs: what multiplies, and what the operands are
rule.py       what is known of a product; a runtime is a list of rules
known.py      the rules of six runtimes, with their sources
cases.py      the products of a model, as rules see them
table.py      target_table(model, "tensorrt", x)
choosing.py   recipe_for(model, recipe, "tensorrt", x)
emulating.py  as_on(model, "tensorrt", x)
scoring.py    evaluate_on(run, data, "tensorrt")
"""
