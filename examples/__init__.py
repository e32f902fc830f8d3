"""Programs that show AOS at work; none of them is part of the deployed system."""
