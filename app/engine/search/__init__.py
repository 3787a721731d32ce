"""Hyperparameter search: a space, a strategy that proposes values, and trials measured on hold-outs.

Trial n is a function of the space, the strategy, the seed and the trials before it: no sampler or pruner keeps state
between two trials, so a killed search continues from its stored trials with exactly the trials it would have done.
Begin with `run`, which proposes (`propose`), fits and prunes; `space` checks what a user wants searched.
Optuna (Akiba et al. 2019) samples and prunes; only `optuna_study` imports it, when it is first used. May import the
rest of the engine except `library`.
"""
