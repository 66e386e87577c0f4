"""Demonstrations for the supervised stage of a pretrained policy: what it is to write, in exactly the form in which the
agent will ask."""
