"""Every error that Headrace raises on purpose.

HeadraceError
├── DefinitionError (ValueError)      a class in features.py is wrong: file:line, Class.field, cure
├── PlanError (ValueError)            definitions disagree with what is applied or supported
├── ConfigError (ValueError)          headrace.toml, an environment variable or an argument
├── SchemaError (ValueError)          an event, row or request does not fit its declaration: names the field
│   └── InputFileError                an event file is empty, cut short or not what it says
├── NotFound (LookupError)            no such stream, group, view, model, version, prediction
│   └── Erased                        it was there, and was erased with the entity that it belonged to
├── HorizonError (ValueError)         an online read further back than the as-of horizon
├── LogError (RuntimeError)           the event log cannot do what was asked
│   ├── LogMoved                      another one has written where one writer was to go on
│   └── LogUnreachable                its servers do not answer just now; an Unreachable as well
├── StoreError (RuntimeError)         an online or offline store, the catalog or the registry cannot
│   ├── Unreachable                   its server does not answer just now: the same may be asked again
│   └── StoreMoved                    it stands elsewhere than its writer left it
├── Busy (RuntimeError)               another process holds this folder
├── CheckFailed (RuntimeError)        a declared data check refused a batch run
└── TrainingError (RuntimeError)      too little truth, one class only, an estimator failed

A message says what is wrong, where (stream, offset, field, row, file) and what to do next.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of all errors raised on purpose."""


class DefinitionError(HeadraceError, ValueError):
    """A definition is wrong; the message lists every problem of the class, one per line."""


class PlanError(HeadraceError, ValueError):
    """Definitions disagree with what was applied, or ask for what this version cannot compute."""


class ConfigError(HeadraceError, ValueError):
    """A setting is unknown, missing or malformed."""


class SchemaError(HeadraceError, ValueError):
    """A value does not fit its declaration.

    Attributes:
        field: name of the offending field, or None if the whole value is at fault.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InputFileError(SchemaError):
    """An input file is empty, cut short or not of the format that its name says."""


class NotFound(HeadraceError, LookupError):
    """Nothing of that name exists; the message lists near names."""


class Erased(NotFound):
    """What is asked for was erased with the entity that it belonged to."""


class HorizonError(HeadraceError, ValueError):
    """The asked time lies before the as-of horizon of the online store."""


class LogError(HeadraceError, RuntimeError):
    """The event log refused or failed."""


class StoreError(HeadraceError, RuntimeError):
    """A store, the catalog or the registry refused or failed."""


class Unreachable(StoreError):
    """A server does not answer, or says that it cannot just now; the same call may succeed later."""


class LogMoved(LogError):
    """A partition goes on elsewhere than its one writer left it: another one has written."""


class LogUnreachable(LogError, Unreachable):
    """The servers of the event log do not answer; the same call may succeed later."""


class StoreMoved(StoreError):
    """The store stands elsewhere than its writer left it: another one wrote, or a failover has lost the last writes."""


class Busy(HeadraceError, RuntimeError):
    """The folder is held by another process; the message names it."""


class CheckFailed(HeadraceError, RuntimeError):
    """A declared data check refused a batch run; old values stay."""


class TrainingError(HeadraceError, RuntimeError):
    """A model could not be trained or evaluated on the data that there is."""
