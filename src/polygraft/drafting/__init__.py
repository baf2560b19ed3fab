"""`polygraft init`: a commented recipe from the user's files and two models, of which no weights are loaded."""
