"""What a run tells while it goes: metrics on disk, pace and remaining time, curves, and what is noticed in them."""

from .durations import duration_words
from .line import status_line
from .metrics import Course, CourseReader, Record, read_course, tail
from .notices import Notice
from .pace import Pace
from .setup_notices import setup_notices
from .watch import CourseWatch

__all__ = [
    "Course",
    "CourseReader",
    "CourseWatch",
    "Notice",
    "Pace",
    "Record",
    "duration_words",
    "read_course",
    "setup_notices",
    "status_line",
    "tail",
]
