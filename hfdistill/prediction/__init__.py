"""A student at work: the rows of a file with the student's predictions beside them."""
