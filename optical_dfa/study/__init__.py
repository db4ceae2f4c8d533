"""Noise studies: many training runs that differ in what is studied, done once each, by any number of workers."""
