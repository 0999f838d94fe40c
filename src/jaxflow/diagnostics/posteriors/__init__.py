"""Checks of conditional densities: is `q(theta | x)` the posterior of simulated pairs?"""
