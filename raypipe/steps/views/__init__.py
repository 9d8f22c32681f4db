"""Stateful steps at work: operators that turn an epoch's changes of their inputs into changes of a view."""

from raypipe.steps.views.epoch import Epoch, Needs, Views, stateful_inputs, stateful_relations
from raypipe.steps.views.exchange import ALONE, Exchange
from raypipe.steps.views.view import View

__all__ = ["ALONE", "Epoch", "Exchange", "Needs", "View", "Views", "stateful_inputs", "stateful_relations"]
