"""Record -> where the time and the memory went; reads the record and changes nothing."""
