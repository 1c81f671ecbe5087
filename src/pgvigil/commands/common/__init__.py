"""Parts that several commands share: option groups, the database that is meant, where a report goes."""
