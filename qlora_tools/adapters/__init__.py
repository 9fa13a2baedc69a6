"""What lies in an adapter directory, read and checked without torch."""

from .record import AdapterRecord, adapter_directory, read_adapter_record

__all__ = ["AdapterRecord", "adapter_directory", "read_adapter_record"]
