"""SHOWING: tables for the terminal, pictures, and the one self-contained page."""
