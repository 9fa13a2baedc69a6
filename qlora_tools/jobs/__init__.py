"""Jobs: runs that outlive the process that started them, and always tell what became of them."""
