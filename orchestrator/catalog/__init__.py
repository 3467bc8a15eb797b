"""The catalog of an app: every message, saga and listener with its schema, and what a change of them breaks."""

from .asyncapi import asyncapi
from .changes import Breaks, Change, changes
from .entries import Catalog, MessageEntry, SagaEntry, read_catalog
from .gather import aggregates_beside, catalog_of
from .schemas import schema_of

__all__ = [
    "Breaks",
    "Catalog",
    "Change",
    "MessageEntry",
    "SagaEntry",
    "aggregates_beside",
    "asyncapi",
    "catalog_of",
    "changes",
    "read_catalog",
    "schema_of",
]
