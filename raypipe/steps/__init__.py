"""Steps at work: a plan's SQL run over batches of changes, and stateful views carried from cut to cut."""

from raypipe.steps.flow import Flow
from raypipe.steps.sql import SqlStep
from raypipe.steps.views import ALONE, Exchange, Needs, Views, stateful_inputs, stateful_relations

__all__ = ["ALONE", "Exchange", "Flow", "Needs", "SqlStep", "Views", "stateful_inputs", "stateful_relations"]
